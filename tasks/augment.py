"""augment: the augmentation as versioned data of its own, with a strip of what it does."""

import itertools
import json
from pathlib import Path
from typing import Annotated, Any

from tasks import atomic, pictures, shards
from tasks.workload import Typed, part


def augment(
    workload: str,
    prepare: Path,
    out: Path,
    *,
    augmentation: Annotated[Any, Typed("augment", "Augmentation", whole=True)],
) -> None:
    """Leave `augment.json` (what train reads) and `strip.png` (each sample, then variants of it) in `out`."""
    spec = json.loads((prepare / "spec.json").read_text())
    samples = list(itertools.islice(shards.read(prepare, "train"), 64))
    shown = {label: data for data, label in reversed(samples)}
    labels = sorted(shown)[:6]
    rows = part(workload, "augment").variants([shown[label] for label in labels], augmentation, spec, copies=9)
    with atomic.folder(out) as folder:
        atomic.write_json(folder / "augment.json", augmentation.model_dump(mode="json", exclude_none=True))
        pictures.sample_grid(
            folder / "strip.png", [spec["classes"][label] for label in labels], rows, ("original", "variants")
        )
    print(f"active: {', '.join(augmentation.active()) or 'none'}")
