"""prepare: check, split and pack labelled images; leave the facts that every later stage and the server need."""

import hashlib
import io
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from tasks import atomic, pictures, shards
from tasks.workload import part

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Checked:
    """A sample that decodes; `content` is the SHA-256 of its pixels."""

    name: str
    split: str
    data: bytes
    label: int
    content: str


def prepare(
    workload: str,
    raw: Path,
    incoming: Path,
    out: Path,
    *,
    classes: Annotated[list[str], Field(min_length=2)],
    image_size: Annotated[int, Field(ge=8, le=1024)],
    channels: Literal[1, 3],
    validation: Count,
    calibration: Count,
    golden: Count,
    shard_size: Count,
) -> None:
    """Leave shards of four splits, `spec.json`, `report.json`, the golden batch and two pictures in `out`.

    Splits are decided by content: an image's SHA-256 says where it goes, the official test set stays as it is, and no
    image lands in two splits. Every file seen is used or rejected with a reason.
    """
    source = part(workload, "source")
    kept, rejected, moments = check(source.read(raw, incoming, classes), source, channels)
    splits = split(kept, validation, calibration)
    require(splits, classes, golden)
    spec = {
        "workload": workload,
        "classes": classes,
        "image_size": image_size,
        "channels": channels,
        **moments,
        "counts": {name: len(samples) for name, samples in splits.items()},
    }
    with atomic.folder(out) as folder:
        for name, samples in splits.items():
            shards.write(folder, name, [(s.data, s.label) for s in samples], shard_size)
        atomic.write_json(folder / "spec.json", spec)
        atomic.write_json(folder / "report.json", report(splits, rejected))
        write_golden(folder, sorted(splits["test"], key=lambda s: s.content)[:golden], spec, workload)
        balance = {name: per_class(samples, len(classes)) for name, samples in splits.items()}
        pictures.class_balance(folder / "class_balance.png", classes, balance)
        pictures.sample_grid(folder / "samples.png", classes, grid(splits["train"], source, channels, len(classes)))
    used = sum(len(samples) for samples in splits.values())
    print(f"{used + len(rejected):,} files seen = {used:,} used + {len(rejected):,} rejected")


def per_class(samples: list[Checked], classes: int) -> list[int]:
    """Count the samples of each class."""
    counts = Counter(sample.label for sample in samples)
    return [counts[label] for label in range(classes)]


def check(
    samples: Any, source: Any, channels: int
) -> tuple[list[Checked], list[dict[str, str]], dict[str, list[float]]]:
    """Decode every sample; return those to use, those rejected with their reasons, and the training side's moments.

    A test image keeps its place; a training image equal to a test image, or to one seen before, is rejected.
    """
    ordered = sorted(samples, key=lambda s: s.split != "test")  # stable: the test set claims its content first
    seen: dict[str, str] = {}
    kept, rejected = [], []
    moments = Moments(channels)
    for sample in ordered:
        try:
            if sample.label is None:
                raise ValueError("its folder is no class of params.yaml")
            pixels = source.decode(sample.data, channels) if sample.pixels is None else sample.pixels
            content = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
            if sample.split != "test" and content in seen:
                raise ValueError(f"same image as {seen[content]}")
        except ValueError as error:
            rejected.append({"name": sample.name, "reason": str(error)})
            continue
        seen.setdefault(content, sample.name)
        kept.append(Checked(sample.name, sample.split, sample.data, sample.label, content))
        if sample.split != "test":
            moments.add(pixels)
    return kept, rejected, moments.result()


class Moments:
    """Mean and standard deviation per channel, 0..255 scale, over images of any size."""

    def __init__(self, channels: int) -> None:
        self.histograms = np.zeros((channels, 256), np.int64)

    def add(self, pixels: Any) -> None:
        """Count one HW or HWC uint8 image in."""
        for histogram, plane in zip(self.histograms, pixels.reshape(-1, len(self.histograms)).T, strict=True):
            histogram += np.bincount(plane, minlength=256)

    def result(self) -> dict[str, list[float]]:
        """Return `{"mean": [...], "std": [...]}`, rounded to what matters."""
        values = np.arange(256)
        shares = self.histograms / np.maximum(1, self.histograms.sum(1, keepdims=True))
        mean = shares @ values
        std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 1e-6))
        return {"mean": [round(float(m), 3) for m in mean], "std": [round(float(s), 3) for s in std]}


def split(kept: list[Checked], validation: int, calibration: int) -> dict[str, list[Checked]]:
    """Deal the training side by content hash; dropped files always join training, so they move no other image."""
    pool = sorted((s for s in kept if s.split == "train"), key=lambda s: s.content)
    dealt = [s for s in pool if not s.name.startswith("incoming/")]
    held_out = {s.content for s in dealt[: validation + calibration]}
    return {
        "train": [s for s in pool if s.content not in held_out],
        "validation": dealt[:validation],
        "calibration": dealt[validation : validation + calibration],
        "test": [s for s in kept if s.split == "test"],
    }


def require(splits: dict[str, list[Checked]], classes: list[str], golden: int) -> None:
    """Raise `ValueError` with numbers where a split is too small to be of use."""
    present = {s.label for s in splits["train"]}
    absent = [name for i, name in enumerate(classes) if i not in present]
    if absent:
        raise ValueError(f"no training image of class {', '.join(absent)}: {len(splits['train'])} images in all")
    if len(splits["test"]) < golden:
        raise ValueError(f"{len(splits['test'])} test images, but prepare.golden asks for {golden}")


def report(splits: dict[str, list[Checked]], rejected: list[dict[str, str]]) -> dict[str, Any]:
    """Account for every file: `seen = used + rejected`."""
    used = {name: len(samples) for name, samples in splits.items()}
    return {"seen": sum(used.values()) + len(rejected), "used": used, "rejected": len(rejected), "reasons": rejected}


def write_golden(folder: Path, samples: list[Checked], spec: dict[str, Any], workload: str) -> None:
    """Write the golden batch: encoded bytes (tar), and preprocessed tensors with labels (safetensors)."""
    from safetensors.numpy import save_file

    with tarfile.open(folder / "golden.tar", "w") as tar:
        for i, sample in enumerate(samples):
            member = tarfile.TarInfo(f"{i:04d}.image")
            member.size = len(sample.data)
            tar.addfile(member, io.BytesIO(sample.data))
    preprocess = part(workload, "preprocess")
    pipeline = preprocess.serving_pipeline(spec, batch_size=len(samples))
    tensors = preprocess.run(pipeline, [s.data for s in samples])
    labels = np.array([s.label for s in samples], np.int64)
    save_file({"input": tensors, "label": labels}, folder / "golden.safetensors")


def grid(samples: list[Checked], source: Any, channels: int, classes: int, columns: int = 12) -> list[list[Any]]:
    """Return the first few images of each class, decoded."""
    rows: list[list[Any]] = [[] for _ in range(classes)]
    for sample in samples:
        if len(rows[sample.label]) < columns:
            rows[sample.label].append(source.decode(sample.data, channels))
    return rows
