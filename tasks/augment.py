"""augment: the augmentation as versioned data of its own, with a strip of what it does."""

import itertools
import json
from pathlib import Path
from typing import Any

from tasks import atomic, pictures, shards
from tasks.command import checked
from tasks.workload import part


def augment(
    workload: str,
    prepare: Path,
    out: Path,
    *,
    rotation: dict[str, Any],
    scale: dict[str, Any],
    shift: dict[str, Any],
    flip: dict[str, Any],
    brightness: dict[str, Any],
    contrast: dict[str, Any],
) -> None:
    """Leave `augment.json` (what train reads) and `strip.png` (each image, then variants of it) in `out`."""
    knobs = {
        "rotation": rotation,
        "scale": scale,
        "shift": shift,
        "flip": flip,
        "brightness": brightness,
        "contrast": contrast,
    }
    augmentation = typed(workload, knobs, "params.yaml: augment")
    spec = json.loads((prepare / "spec.json").read_text())
    samples = list(itertools.islice(shards.read(prepare, "train"), 64))
    shown = {label: data for data, label in reversed(samples)}
    labels = sorted(shown)[:6]
    rows = part(workload, "augment").variants([shown[label] for label in labels], augmentation, spec, copies=9)
    with atomic.folder(out) as folder:
        atomic.write_json(folder / "augment.json", augmentation.model_dump(mode="json"))
        pictures.sample_grid(
            folder / "strip.png", [spec["classes"][label] for label in labels], rows, ("original", "variants")
        )
    active = [name for name, knob in augmentation if knob.probability]
    print(f"active: {', '.join(active) or 'none'}")


def typed(workload: str, knobs: dict[str, Any], where: str) -> Any:
    """Return the knobs as the type that the workload gives them; `ValueError` names the one that is wrong."""
    return checked(part(workload, "augment").Augmentation, knobs, where)
