"""The golden batch: held-out samples whose answers the live server has to give exactly."""

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.live import Served
from tasks import backends
from tasks.package import VERSION, parts
from tasks.settings import STATE

EXAMPLES = STATE / "examples"


@dataclass(frozen=True)
class Golden:
    """Encoded samples, and what the packaged engine itself says of their prepared tensors."""

    samples: list[bytes]
    labels: list[str]
    scores: Any


def read(package: Path, pipeline: str, engine: str, classes: list[str]) -> Golden:
    """Read a package's golden batch, and score its tensors with the packaged engine, without the server."""
    from safetensors.numpy import load_file

    backend = backends.backend(engine.split("-")[0])
    model = package / "repository" / parts(pipeline)[1] / VERSION / f"engine{backend.SUFFIX}"
    logits = backend.load(model, 1)(load_file(package / "golden" / "golden.safetensors")["input"])
    labels = [classes[i] for i in logits.argmax(axis=1)]
    return Golden(samples(package), labels, softmax(logits))


def softmax(logits: Any) -> Any:
    """Logits [n, classes] -> probabilities, float32, as the server gives them."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def samples(package: Path) -> list[bytes]:
    """Return the golden batch's encoded samples, in the order of their names."""
    with tarfile.open(package / "golden" / "golden.tar") as tar:
        files = [tar.extractfile(name) for name in sorted(tar.getnames())]
        return [file.read() for file in files if file is not None]


def prove(served: Served, golden: Golden, bound: float) -> dict[str, Any]:
    """Replay the golden batch and return how it went; `ValueError` where a label or a score is not as it should be."""
    labels, scores = served.classify_all(golden.samples)
    equal = sum(a == b for a, b in zip(labels, golden.labels, strict=True))
    difference = float(np.abs(scores - golden.scores).max())
    if equal < len(labels) or not difference <= bound:
        raise ValueError(
            f"{served.pipeline}: the golden batch came back other than from the engine: {equal} of {len(labels)} "
            f"labels are equal, scores differ by up to {difference:.2g} (deploy.max_score_difference: {bound:g})"
        )
    return {"n": len(labels), "labels_equal": equal, "max_score_difference": difference}


def example(package: Path, pipeline: str) -> Path:
    """Write the first golden sample to .state/examples, for people to send; return where."""
    data = samples(package)[0]
    path = EXAMPLES / (f"{pipeline}.png" if data.startswith(b"\x89PNG") else pipeline)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
