"""Find the modules of a workload by name: `image/classification` -> tasks/workloads/image/..."""

import importlib
from types import ModuleType

MODALITY_PARTS = ("source", "preprocess", "augment")


def part(workload: str, name: str) -> ModuleType:
    """Return one module of a workload: source, preprocess and augment are its modality's, the rest its problem's."""
    modality = workload.split("/")[0]
    folder = modality if name in MODALITY_PARTS else workload.replace("/", ".")
    return importlib.import_module(f"tasks.workloads.{folder}.{name}")
