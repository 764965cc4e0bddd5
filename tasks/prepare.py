"""prepare: check, split and pack labelled samples; leave the facts that every later stage and the server need."""

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from tasks import atomic, pictures, rejects, shards
from tasks.params import distinct, file_name
from tasks.rejects import Rejected
from tasks.splits import GIVEN, Checked, split
from tasks.workload import Typed, part

ClassName = Annotated[str, AfterValidator(file_name)]  # of the folder that people drop its samples into
Count = Annotated[int, Field(ge=1, le=100_000_000)]
Share = Literal["given"] | Count  # of the training side, or what the data set itself sets apart
ORDER = ("test", "validation", "train")  # of two samples of the same content the first stays


def prepare(
    workload: str,
    raw: Path,
    incoming: Path,
    out: Path,
    *,
    classes: Annotated[list[ClassName], Field(min_length=2), AfterValidator(distinct)],
    input: Annotated[Any, Typed("source", "Input")],
    test: Share,
    validation: Share,
    calibration: Count,
    golden: Annotated[int, Field(ge=1, le=4096)],
    shard_size: Count,
) -> None:
    """Leave shards of four splits, `spec.json`, `report.json`, `report.html`, the golden batch and pictures in `out`.

    Splits are decided by content: a sample's SHA-256 says where it goes, what the data set sets apart itself stays as
    it is, and no sample lands in two splits. Every file seen is used or rejected with a reason; `ValueError` where too
    few are good.
    """
    source = part(workload, "source")
    facts = source.Facts(input)
    measured = facts.add if test == GIVEN else None  # else it is not known yet what will be a test sample
    kept, rejected = check(source.read(raw, incoming, classes, input), source, input, measured)
    splits = split(kept, test, validation, calibration)
    for name in () if measured else ("train", "validation", "calibration"):
        for each in splits[name]:
            facts.add(source.decode(each.data, input))
    used = sum(len(samples) for samples in splits.values())
    seen = f"{used + len(rejected):,} files seen = {used:,} used + {len(rejected):,} rejected"
    asked = {"test": test, "validation": validation, "calibration": calibration}
    require(splits, classes, asked, golden, seen)
    chosen = sorted(splits["test"], key=lambda s: s.content)[:golden]
    spec: dict[str, Any] = {
        "workload": workload,
        "classes": classes,
        **facts.result(),
        "counts": {},
    }
    with atomic.folder(out) as folder:
        for name, samples in splits.items():
            spec["counts"][name] = shards.write(folder, name, packed(name, samples, source, input), shard_size)
        spec["shape"] = write_golden(folder, list(packed("golden", chosen, source, input)), spec)
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


def check(
    samples: Any, source: Any, input: Any, measured: Callable[[Any], None] | None
) -> tuple[list[Checked], list[Rejected]]:
    """Decode every sample; return those to use and those rejected; the training side's are `measured` on the way.

    A test sample keeps its place; a training sample equal to a test sample, or to one seen before, is rejected.
    """
    ordered = sorted(samples, key=lambda s: ORDER.index(s.split))  # stable: the test set claims its content first
    seen: dict[str, str] = {}
    kept, rejected = [], []
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
        if measured and sample.split != "test":
            measured(pixels)
    return kept, rejected


def require(
    splits: dict[str, list[Checked]], classes: list[str], asked: dict[str, Any], golden: int, seen: str
) -> None:
    """Raise `ValueError` with numbers where a split is smaller than asked, or where a class is missing from one."""
    for name, knob, count in [*((name, name, count) for name, count in asked.items()), ("test", "golden", golden)]:
        least = 1 if count == GIVEN else count
        if len(splits[name]) < least:
            asks = f"prepare.{knob} asks for {count if count == GIVEN else f'{count:,}'}"
            raise ValueError(
                f"{len(splits[name]):,} good samples for {name}, but {asks} ({seen}); add data or "
                f"{'write a number there' if count == GIVEN else f'lower prepare.{knob}'}"
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


def packed(split: str, samples: list[Checked], source: Any, input: Any) -> Iterator[tuple[bytes, int]]:
    """Yield what a split's shards hold, (encoded, label): of a file that trains there may be several samples."""
    for each in samples:
        for data in source.training(each.data, input) if split == "train" else [source.held_out(each.data, input)]:
            yield data, each.label


def report(splits: dict[str, list[Checked]], rejected: list[Rejected]) -> dict[str, Any]:
    """Account for every file: `seen = used + rejected`."""
    used = {name: len(samples) for name, samples in splits.items()}
    reasons = [{"name": each.name, "reason": each.reason} for each in rejected]
    return {"seen": sum(used.values()) + len(rejected), "used": used, "rejected": len(rejected), "reasons": reasons}


def write_golden(folder: Path, samples: list[tuple[bytes, int]], spec: dict[str, Any]) -> list[int]:
    """Write the golden batch, encoded (tar) and as tensors with labels (safetensors); return the shape of one."""
    from safetensors.numpy import save_file

    with tarfile.open(folder / "golden.tar", "w") as tar:
        for i, (data, _) in enumerate(samples):
            member = tarfile.TarInfo(f"{i:04d}.sample")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    preprocess = part(spec["workload"], "preprocess")
    pipeline = preprocess.serving_pipeline(spec, batch_size=len(samples))
    tensors = preprocess.run(pipeline, [data for data, _ in samples])
    labels = np.array([label for _, label in samples], np.int64)
    save_file({"input": tensors, "label": labels}, folder / "golden.safetensors")
    return list(tensors.shape[1:])


def grid(samples: list[Checked], source: Any, input: Any, classes: int, columns: int = 12) -> list[list[Any]]:
    """Return the first few samples of each class, as pictures."""
    rows: list[list[Any]] = [[] for _ in range(classes)]
    for sample in samples:
        if len(rows[sample.label]) < columns:
            rows[sample.label].append(source.picture(sample.data, input))
    return rows
