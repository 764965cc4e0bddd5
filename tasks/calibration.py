"""The calibration set, audited: INT8 takes its ranges from it, so it is large, of every class, and no judge's."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import shards
from tasks.workload import part

BATCH = 64
JUDGES = ("validation", "test")  # splits that judge the result


def audited(workload: str, prepare: Path, spec: dict[str, Any], least: int) -> tuple[list[Any], dict[str, Any]]:
    """Return the calibration batches, float32 [n, *shape], and the facts about them: count, per class, SHA-256.

    `ValueError` where there are fewer than `least`, where a class has less than half of its share of the training
    split, or where a sample is in validation or test, too, as the network sees it.
    """
    batches = list(part(workload, "data").arrays(prepare, "calibration", spec, BATCH))
    labels = Counter(int(label) for _, y in batches for label in y)
    if labels.total() < least:
        raise ValueError(
            f"{prepare}: {labels.total():,} calibration samples, but quantize.min_calibration asks for {least:,}; "
            "raise prepare.calibration, or lower the other"
        )
    refuse_thin(labels, Counter(shards.labels(prepare, "train")), spec["classes"], prepare)
    seen = {content(x): number for number, x in enumerate(x for batch, _ in batches for x in batch)}
    facts = {
        "samples": labels.total(),
        "per_class": {name: labels[i] for i, name in enumerate(spec["classes"])},
        "sha256": hashlib.sha256(b"".join(seen)).hexdigest(),
        "disjoint_from": {judge: refuse_shared(seen, workload, prepare, spec, judge) for judge in JUDGES},
    }
    return [x for x, _ in batches], facts


def refuse_thin(labels: Counter[int], train: Counter[int], classes: list[str], prepare: Path) -> None:
    """Raise `ValueError` for a class that the calibration set all but leaves out."""
    for label, name in enumerate(classes):
        share = train[label] / train.total()
        expected = share * labels.total()
        if labels[label] < max(1, int(expected / 2)):
            raise ValueError(
                f"{prepare}: {labels[label]} of {labels.total():,} calibration samples are of class '{name}', whose "
                f"share of the training split is {share:.0%} ({expected:.0f}); run the prepare stage again, which "
                "draws from every class, or raise prepare.calibration"
            )


def refuse_shared(seen: dict[bytes, int], workload: str, prepare: Path, spec: dict[str, Any], judge: str) -> int:
    """Return the number of samples of a split; `ValueError` where one of them is a calibration sample."""
    others = 0
    shared = set()
    for x in samples(workload, prepare, spec, judge):
        others += 1
        shared |= {content(x)} & seen.keys()
    if shared:
        first = min(seen[each] for each in shared)
        raise ValueError(
            f"{prepare}: {len(shared):,} of {len(seen):,} calibration samples are in the {judge} split, too (the first "
            f"is number {first}): INT8 would be judged on what it was fitted to; run the prepare stage again"
        )
    return others


def samples(workload: str, prepare: Path, spec: dict[str, Any], split: str) -> Iterator[Any]:
    """Yield each sample of a split as the network sees it."""
    for batch, _ in part(workload, "data").arrays(prepare, split, spec, BATCH):
        yield from batch


def content(x: Any) -> bytes:
    """Return a digest of what the network sees of a sample."""
    return hashlib.sha256(x.tobytes()).digest()
