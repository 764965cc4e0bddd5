"""The engines of a pipeline: names come from the list of backends, never from what lies on disk."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import backends as modules
from tasks import passport, target


@dataclass(frozen=True)
class Engine:
    """One built engine and its passport; `missing` says why it can't run on this machine."""

    name: str
    path: Path
    facts: dict[str, Any]

    @property
    def missing(self) -> str | None:
        """Why this machine can't run it: nothing there runs such engines, or not this one; None where it can."""
        module = modules.backend(self.facts["backend"])
        return module.missing() or "; ".join(module.objections(self.path, self.facts, target.target())) or None

    @property
    def unserved(self) -> str | None:
        """Why our server can't run it; None where it can."""
        served = modules.backend(self.facts["backend"]).SERVED
        return None if served else f"the server's environment can't load engines of {self.facts['backend']}"

    def load(self, threads: int) -> Callable[[Any], Any]:
        """Return numpy -> numpy inference."""
        return modules.backend(self.facts["backend"]).load(self.path, threads)


def read(build: Path, backends: list[str]) -> list[Engine]:
    """Return the engines of these backends, in order."""
    engines = []
    for backend in backends:
        for name, file in json.loads((build / backend / "build.json").read_text())["engines"].items():
            engines.append(Engine(name, build / backend / file, passport.read(build / backend / file)))
    return engines
