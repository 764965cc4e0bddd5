"""Backends, found by name: a file here and its name in `backends` of params.yaml are all it takes."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast


class Backend(Protocol):
    """What a backend module offers."""

    DEVICE: str  # where its engines run: cpu, gpu
    DIALECT: str  # which ONNX form of INT8 it reads: onnxruntime, tensorrt
    SUFFIX: str  # of its engine files

    def build(self, source: Path, out: Path, max_batch: int) -> dict[str, Any]:
        """Write the engine of an ONNX file; return facts about it (versions, targets)."""

    def missing(self) -> str | None:
        """Say why engines can't run on this machine; None where they can."""

    def load(self, engine: Path, threads: int) -> Callable[[Any], Any]:
        """Return x float32 [batch, ...] -> logits [batch, classes], numpy both."""


def backend(name: str) -> Backend:
    """Return a backend's module; `ValueError` lists those there are."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    if name not in known:
        raise ValueError(f"params.yaml: backends: no backend '{name}'; there are: {', '.join(known)}")
    return cast(Backend, importlib.import_module(f"tasks.backends.{name}"))
