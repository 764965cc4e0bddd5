"""The engines of a pipeline: names come from the list of backends, never from what lies on disk."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import backends as modules


@dataclass(frozen=True)
class Engine:
    """One built engine; `missing` says why it can't run on this machine."""

    name: str
    path: Path
    facts: dict[str, Any]

    @property
    def missing(self) -> str | None:
        """Why this machine can't run it; None where it can."""
        return modules.backend(self.facts["backend"]).missing()

    def load(self, threads: int) -> Callable[[Any], Any]:
        """Return numpy -> numpy inference."""
        return modules.backend(self.facts["backend"]).load(self.path, threads)


def read(build: Path, backends: list[str]) -> list[Engine]:
    """Return the engines of these backends, in order."""
    engines = []
    for backend in backends:
        folder = build / backend
        for name, facts in json.loads((folder / "build.json").read_text())["engines"].items():
            engines.append(Engine(name, folder / facts["file"], facts))
    return engines
