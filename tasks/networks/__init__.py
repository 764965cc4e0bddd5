"""Networks, found by name: a file here and its name in `train.network` are all it takes."""

import importlib
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

SHARED = "layers"  # what the networks are made of, no network itself


class Architecture(Protocol):
    """What a network's module offers; it imports torch inside functions, for its knobs are read at every run."""

    Knobs: type  # a pydantic model: `name`, which is the file's, and what else it wants to know

    def build(self, channels: int, outputs: int, knobs: Any) -> Any:
        """Return an untrained torch module, float32 [batch, channels, height, width] -> [batch, outputs].

        It is an `nn.Sequential` whose last child, `head`, alone depends on `outputs`.
        """


@dataclass(frozen=True)
class OfNetworks:
    """Marks a knob that names a network and holds its knobs."""

    def type(self, workload: str) -> Any:
        """Return the choice between all networks' knobs, told apart by `name`."""
        from pydantic import Field

        return Annotated[reduce(or_, [network(name).Knobs for name in names()]), Field(discriminator="name")]


def names() -> list[str]:
    """Return the networks there are."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in ("__init__", SHARED))


def network(name: str) -> Architecture:
    """Return a network's module."""
    return cast(Architecture, importlib.import_module(f"tasks.networks.{name}"))


def build(spec: dict[str, Any], knobs: dict[str, Any]) -> Any:
    """Return an untrained network for the data that `spec.json` describes."""
    module = network(knobs["name"])
    return module.build(spec["shape"][0], len(spec["classes"]), module.Knobs(**knobs))
