"""ship: a package as the model store of a cluster has it, with a known answer for the canary beside it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from flows import golden
from flows.live import OURS
from flows.terminal import say
from tasks import atomic, backends
from tasks.package import VERSION, modality, parts

PACKAGES = Path("models/package")


def ship(pipeline: str, into: Path) -> int:
    """Leave `into`/PIPELINE/SHA-256 for infra/k8s, unless it is there already: the package and `canary/`.

    `canary/` holds a request for Triton's container and what it has to answer, as the engine itself does on this
    machine: run it where the engine was measured. `ValueError` where that container takes no such engine.
    """
    package = PACKAGES / pipeline
    facts = contents(package)
    engine = in_container(package, facts)
    folder = into / pipeline / facts["sha256"]
    if not folder.exists():
        with atomic.folder(folder) as partial:
            shutil.copytree(package, partial, dirs_exist_ok=True)
            write_canary(partial, facts, partial / engine)
    say(f"{facts['engine']}: {folder}\nPIPELINE={pipeline}\nPACKAGE={facts['sha256']}\nENGINE={engine.name}")
    return 0


def contents(package: Path) -> dict[str, Any]:
    """Return what package.json says; `ValueError` where there is none, or no engine was chosen."""
    path = package / "package.json"
    if not path.exists():
        raise ValueError(f"{path}: not there; run the pipeline first: engineworks run {package.name}")
    facts: dict[str, Any] = json.loads(path.read_text())
    if facts["engine"] is None:
        raise ValueError(f"{path}: no engine was chosen: {'; '.join(facts['reasons'])}")
    return facts


def in_container(package: Path, facts: dict[str, Any]) -> Path:
    """Return where the engine lies that Triton's container loads, from the package's folder."""
    folder = Path("container", parts(facts["pipeline"])[1], VERSION)
    found = [path.name for path in (package / folder).glob("model.*") if path.suffix in (".onnx", ".plan")]
    if not found:
        raise ValueError(
            f"{package}: no container/, since NVIDIA's Triton has no backend for {facts['engine']}: "
            "leave onnxruntime or tensorrt in `backends` of params.yaml alone"
        )
    return folder / found[0]


def write_canary(folder: Path, facts: dict[str, Any], engine: Path) -> None:
    """Write the request and what it has to be answered with, the golden sample that leaves no doubt."""
    from safetensors.numpy import load_file

    inputs = load_file(folder / "golden" / "golden.safetensors")["input"]
    logits = backends.backend(facts["engine"].split("-")[0]).load(engine, 1)(inputs)
    best = np.sort(logits, axis=1)
    number = int((best[:, -1] - best[:, -2]).argmax())  # rounding elsewhere changes nothing here
    index = int(logits[number].argmax())
    spec = json.loads((folder / "container" / facts["pipeline"] / VERSION / "spec.json").read_text())
    body, header_bytes = request(golden.samples(folder)[number], modality(spec))
    kept = {name: facts[name] for name in ("pipeline", "engine", "sha256")}
    right = [f"{index}:{spec['classes'][index]}", str(index)]  # the server may know no names
    (folder / "canary").mkdir()
    (folder / "canary" / "request").write_bytes(body)
    atomic.write_json(folder / "canary" / "canary.json", kept | {"header_bytes": header_bytes, "right": right})


def request(sample: bytes, name: str) -> tuple[bytes, int]:
    """Return the body that asks for the best class of one encoded sample, and how many bytes of it are its header."""
    import tritonclient.http as triton

    asked = triton.InferInput(name, [1, len(sample)], "UINT8").set_data_from_numpy(
        np.frombuffer(sample, np.uint8)[None]
    )
    wanted = triton.InferRequestedOutput("logits", binary_data=False, class_count=1)
    body, size = triton.InferenceServerClient.generate_request_body([asked], outputs=[wanted], request_id=OURS)
    return bytes(body), int(size)
