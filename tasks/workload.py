"""Find the modules of a workload by name: `image/classification` is modalities/image and problems/classification."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDERS = {
    "modalities": ("source", "preprocess", "augment"),  # a kind of data
    "problems": ("data", "loss", "score"),  # what is learnt from it
}


@dataclass(frozen=True)
class Typed:
    """Marks a knob whose type is a class of the workload; with `whole` it is its stage's whole section."""

    part: str
    name: str
    whole: bool = False

    def type(self, workload: str) -> Any:
        """Return that class."""
        return getattr(part(workload, self.part), self.name)


def part(workload: str, role: str) -> ModuleType:
    """Return one module of a workload: source, preprocess and augment are its modality's, the rest its problem's."""
    modality, problem = workload.split("/")
    folder = next(folder for folder, roles in FOLDERS.items() if role in roles)
    return importlib.import_module(f"tasks.{folder}.{modality if folder == 'modalities' else problem}.{role}")


def missing(workload: str) -> str | None:
    """Say which file a workload lacks; None where it is complete."""
    for (folder, roles), name in zip(FOLDERS.items(), workload.split("/"), strict=True):
        for role in roles:
            path = Path(__file__).parent / folder / name / f"{role}.py"
            if not path.exists():
                return f"tasks/{folder}/{name}/{role}.py"
    return None
