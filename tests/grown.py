"""A second miniature, in which a modality, a model of others and a backend are added and run."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests import miniature, tones

ADDITIONS = miniature.ROOT / "tests" / "additions"
WRITTEN = ("params.yaml", "dvc.lock", "metrics/", "data/", "models/", ".state", ".dvc/", "dvc_plots/", ".venv")


@dataclass(frozen=True)
class Grown:
    """What running the additions printed, and the files that were there before them and after."""

    folder: Path
    environment: dict[str, str]
    outputs: dict[str, tuple[int, str]]  # pipeline: exit code and what `make run` printed
    before: dict[str, str]
    after: dict[str, str]


def files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a run has no business to write, the additions aside."""
    found = {}
    added = {path.relative_to(ADDITIONS).as_posix() for path in ADDITIONS.rglob("*.py")}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(WRITTEN) and "__pycache__" not in name and name not in added:
            found[name] = sha256(path)
    return found


def add(folder: Path, mirror: Path, first: Path) -> None:
    """Add three files and a block, a block, and a file and a word; the model of others is that of the first copy."""
    for path in ADDITIONS.rglob("*.py"):
        target = folder / path.relative_to(ADDITIONS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    tones.write(mirror / "tones.tar")
    shutil.copy(first / "models/export/fashion/model.onnx", mirror / "bought.onnx")
    params = folder / "params.yaml"
    given = yaml.safe_load(params.read_text())
    blocks = given["pipelines"]
    blocks |= yaml.safe_load((ADDITIONS / "blocks.yaml").read_text())
    blocks["tones"]["fetch"]["files"]["tones.tar"] = sha256(mirror / "tones.tar")
    blocks["bought"] = bought(blocks["fashion"], first, mirror / "bought.onnx")
    params.write_text(yaml.safe_dump(given | {"backends": ["onnxruntime", "packed"]}, sort_keys=False))


def bought(block: dict[str, Any], first: Path, model: Path) -> dict[str, Any]:
    """Return the block of a pipeline whose model others trained, with the normalisation they trained it with."""
    spec = json.loads((first / "data/prepare/fashion/spec.json").read_text())
    copied: dict[str, Any] = json.loads(json.dumps(block))
    del copied["train"]
    copied["prepare"]["input"]["normalisation"] = {"mean": spec["mean"], "std": spec["std"]}
    imported = {"target": 0.6, "confidence": 0.95, "onnx": str(model), "sha256": sha256(model)}
    return copied | {"model": "imported", "imported": imported, "augment": {}}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
