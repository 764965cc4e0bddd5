"""prepare: check, split and pack labelled samples; leave the facts that every later stage and the server need."""

import hashlib
import io
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from tasks import atomic, pictures, rejects, shards
from tasks.params import distinct, file_name
from tasks.rejects import Rejected
from tasks.workload import Typed, part

ClassName = Annotated[str, AfterValidator(file_name)]  # of the folder that people drop its samples into
Count = Annotated[int, Field(ge=1, le=100_000_000)]


@dataclass(frozen=True)
class Checked:
    """A sample that decodes; `content` is the SHA-256 of what it decodes to."""

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
    classes: Annotated[list[ClassName], Field(min_length=2), AfterValidator(distinct)],
    input: Annotated[Any, Typed("source", "Input")],
    validation: Count,
    calibration: Count,
    golden: Annotated[int, Field(ge=1, le=4096)],
    shard_size: Count,
) -> None:
    """Leave shards of four splits, `spec.json`, `report.json`, `report.html`, the golden batch and pictures in `out`.

    Splits are decided by content: a sample's SHA-256 says where it goes, the official test set stays as it is, and no
    sample lands in two splits. Every file seen is used or rejected with a reason; `ValueError` where too few are good.
    """
    source = part(workload, "source")
    kept, rejected, facts = check(source.read(raw, incoming, classes), source, input)
    splits = split(kept, validation, calibration)
    used = sum(len(samples) for samples in splits.values())
    seen = f"{used + len(rejected):,} files seen = {used:,} used + {len(rejected):,} rejected"
    require(splits, classes, {"validation": validation, "calibration": calibration, "test": golden}, seen)
    spec = {
        "workload": workload,
        "classes": classes,
        **facts,
        "counts": {name: len(samples) for name, samples in splits.items()},
    }
    with atomic.folder(out) as folder:
        for name, samples in splits.items():
            shards.write(folder, name, [(s.data, s.label) for s in samples], shard_size)
        spec["shape"] = write_golden(folder, sorted(splits["test"], key=lambda s: s.content)[:golden], spec)
        atomic.write_json(folder / "spec.json", spec)
        atomic.write_json(folder / "report.json", report(splits, rejected))
        rejects.page(folder / "report.html", seen, rejected, lambda data: source.picture(data, input))
        balance = {name: per_class(samples, len(classes)) for name, samples in splits.items()}
        pictures.class_balance(folder / "class_balance.png", classes, balance)
        pictures.sample_grid(folder / "samples.png", classes, grid(splits["train"], source, input, len(classes)))
    print(seen)


def per_class(samples: list[Checked], classes: int) -> list[int]:
    """Count the samples of each class."""
    counts = Counter(sample.label for sample in samples)
    return [counts[label] for label in range(classes)]


def check(samples: Any, source: Any, input: Any) -> tuple[list[Checked], list[Rejected], dict[str, Any]]:
    """Decode every sample; return those to use, those rejected, and the facts about the training side.

    A test sample keeps its place; a training sample equal to a test sample, or to one seen before, is rejected.
    """
    ordered = sorted(samples, key=lambda s: s.split != "test")  # stable: the test set claims its content first
    seen: dict[str, str] = {}
    kept, rejected = [], []
    facts = source.Facts(input)
    for sample in ordered:
        try:
            if sample.problem:
                raise ValueError(sample.problem)
            if sample.label is None:
                raise ValueError("its folder is no class of params.yaml")
            pixels = source.decode(sample.data, input) if sample.pixels is None else sample.pixels
            content = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
            if sample.split != "test" and content in seen:
                raise ValueError(f"same content as {seen[content]}")
        except ValueError as error:
            rejected.append(Rejected(sample.name, str(error), sample.data))
            continue
        seen.setdefault(content, sample.name)
        kept.append(Checked(sample.name, sample.split, sample.data, sample.label, content))
        if sample.split != "test":
            facts.add(pixels)
    return kept, rejected, facts.result()


def split(kept: list[Checked], validation: int, calibration: int) -> dict[str, list[Checked]]:
    """Deal the training side by content hash; dropped files always join training, so they move no other image.

    Calibration takes its share of every class: INT8 ranges come from it.
    """
    pool = sorted((s for s in kept if s.split == "train"), key=lambda s: s.content)
    dealt = [s for s in pool if not s.name.startswith("incoming/")]
    validating, calibrating = dealt[:validation], stratified(dealt[validation:], calibration)
    held_out = {s.content for s in [*validating, *calibrating]}
    return {
        "train": [s for s in pool if s.content not in held_out],
        "validation": validating,
        "calibration": calibrating,
        "test": [s for s in kept if s.split == "test"],
    }


def stratified(samples: list[Checked], count: int) -> list[Checked]:
    """Take `count` samples, each class its share of them, rounded by largest remainder; in the order given."""
    sizes = Counter(s.label for s in samples)
    shares = {label: min(count, len(samples)) * size / len(samples) for label, size in sizes.items()}
    left = {label: int(share) for label, share in shares.items()}
    most = sorted(shares, key=lambda label: (left[label] - shares[label], label))
    for label in most[: min(count, len(samples)) - sum(left.values())]:
        left[label] += 1
    taken = []
    for sample in samples:
        if left[sample.label]:
            left[sample.label] -= 1
            taken.append(sample)
    return taken


def require(splits: dict[str, list[Checked]], classes: list[str], least: dict[str, int], seen: str) -> None:
    """Raise `ValueError` with numbers where a split is smaller than asked, or where a class is missing from one."""
    knobs = {"test": "golden"}  # the batch is drawn from the test split
    for name, count in least.items():
        if len(splits[name]) < count:
            knob = knobs.get(name, name)
            raise ValueError(
                f"{len(splits[name]):,} good samples for {name}, but prepare.{knob} asks for {count:,} ({seen}); "
                f"add data or lower prepare.{knob}"
            )
    counts = {name: per_class(splits[name], len(classes)) for name in ("train", "validation", "test")}
    thin = [
        f"{title} ({', '.join(f'{name} {numbers[i]}' for name, numbers in counts.items())})"
        for i, title in enumerate(classes)
        if not all(numbers[i] for numbers in counts.values())
    ]
    if thin:
        raise ValueError(
            f"each class needs a sample in train, validation and test; too few of {', '.join(thin)}; {seen}: "
            "add data, or take the class out of prepare.classes"
        )


def report(splits: dict[str, list[Checked]], rejected: list[Rejected]) -> dict[str, Any]:
    """Account for every file: `seen = used + rejected`."""
    used = {name: len(samples) for name, samples in splits.items()}
    reasons = [{"name": each.name, "reason": each.reason} for each in rejected]
    return {"seen": sum(used.values()) + len(rejected), "used": used, "rejected": len(rejected), "reasons": reasons}


def write_golden(folder: Path, samples: list[Checked], spec: dict[str, Any]) -> list[int]:
    """Write the golden batch, encoded (tar) and as tensors with labels (safetensors); return the shape of one."""
    from safetensors.numpy import save_file

    with tarfile.open(folder / "golden.tar", "w") as tar:
        for i, sample in enumerate(samples):
            member = tarfile.TarInfo(f"{i:04d}.sample")
            member.size = len(sample.data)
            tar.addfile(member, io.BytesIO(sample.data))
    preprocess = part(spec["workload"], "preprocess")
    pipeline = preprocess.serving_pipeline(spec, batch_size=len(samples))
    tensors = preprocess.run(pipeline, [s.data for s in samples])
    labels = np.array([s.label for s in samples], np.int64)
    save_file({"input": tensors, "label": labels}, folder / "golden.safetensors")
    return list(tensors.shape[1:])


def grid(samples: list[Checked], source: Any, input: Any, classes: int, columns: int = 12) -> list[list[Any]]:
    """Return the first few samples of each class, as pictures."""
    rows: list[list[Any]] = [[] for _ in range(classes)]
    for sample in samples:
        if len(rows[sample.label]) < columns:
            rows[sample.label].append(source.picture(sample.data, input))
    return rows
