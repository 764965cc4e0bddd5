"""augment: the augmentation as versioned data of its own, with a strip of what it does."""

import itertools
import json
from pathlib import Path
from typing import Annotated, Any

from tasks import atomic, pictures, shards
from tasks.workload import Typed, part

SAMPLES = 1000  # among which one of each class is looked for


def augment(
    workload: str,
    prepare: Path,
    out: Path,
    *,
    augmentation: Annotated[Any, Typed("augment", "Augmentation", whole=True)],
) -> None:
    """Leave `augment.json` (what train reads) and strips (each sample, then variants of it) in `out`.

    `strip.png` shows all changes together, as training sees them, `strip_<change>.png` one alone, made to every sample.
    """
    spec = json.loads((prepare / "spec.json").read_text())
    samples = list(itertools.islice(shards.read(prepare, "train"), SAMPLES))
    shown = {label: data for data, label in reversed(samples)}
    labels = sorted(shown)[:6]
    images, names = [shown[label] for label in labels], [spec["classes"][label] for label in labels]
    strips = {"strip": augmentation}
    strips |= {f"strip_{name}": augmentation.alone(name) for name in augmentation.active()}
    with atomic.folder(out) as folder:
        atomic.write_json(folder / "augment.json", augmentation.model_dump(mode="json", exclude_none=True))
        for name, changes in strips.items():
            rows = part(workload, "augment").variants(images, changes, spec, copies=9)
            pictures.sample_grid(folder / f"{name}.png", names, rows, ("original", "variants"))
    print(f"active: {', '.join(augmentation.active()) or 'none'}")
