"""Backends, found by name: a file here and its name in `backends` of params.yaml are all it takes."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast


class Backend(Protocol):
    """What a backend module offers; those with knobs also have `Options`, a pydantic model of them."""

    DEVICE: str  # where its engines run: cpu, gpu
    DIALECT: str  # which ONNX form of INT8 it reads: cpu, tensorrt
    PRECISIONS: tuple[str, ...]  # that its engines come in
    SUFFIX: str  # of its engine files
    SERVED: bool  # whether Triton's python environment (infra/serving) can load its engines
    DISTRIBUTION: str  # the package that runs its engines

    def build(self, source: Path, out: Path, max_batch: int, options: Any) -> dict[str, Any]:
        """Write the engine of an ONNX file; return `versions`, `flags`, `batch` (least, best, most) and `runs_on`.

        `ValueError` carries the library's own words.
        """

    def missing(self) -> str | None:
        """Say why engines can't run on this machine; None where they can."""

    def load(self, engine: Path, threads: int) -> Callable[[Any], Any]:
        """Return x float32 [batch, ...] -> logits [batch, classes], numpy both."""

    def objections(self, engine: Path, facts: dict[str, Any], target: dict[str, Any]) -> list[str]:
        """Say why a machine (`tasks.target`) can't load an engine of these facts; nothing is loaded."""


@dataclass(frozen=True)
class OfBackends:
    """Marks a knob that holds the knobs of the backends, by their names."""

    def type(self, workload: str) -> Any:
        """Return a model with a member for each backend that has any."""
        return options()


def names() -> list[str]:
    """Return the backends there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def backend(name: str) -> Backend:
    """Return a backend's module; `ValueError` lists those there are."""
    if name not in names():
        raise ValueError(f"params.yaml: backends: no backend '{name}'; there are: {', '.join(names())}")
    return cast(Backend, importlib.import_module(f"tasks.backends.{name}"))


def options() -> Any:
    """Return the type of all backends' knobs: a model with a member for each backend that has any."""
    from pydantic import ConfigDict, create_model

    fields: dict[str, Any] = {}
    for name in names():
        of_one = getattr(backend(name), "Options", None)
        if of_one is not None:
            fields[name] = (of_one | None, None)
    return create_model("Options", __config__=ConfigDict(frozen=True, extra="forbid"), **fields)
