"""Which samples train, which steer and which test: decided by content, so that more data moves no other sample."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

GIVEN = "given"  # in the place of a number: as the data set itself sets apart


@dataclass(frozen=True)
class Checked:
    """A sample that decodes; `content` is the SHA-256 of what it decodes to."""

    name: str
    split: str
    data: bytes
    label: int
    content: str


def split(kept: list[Checked], test: Any, validation: Any, calibration: int) -> dict[str, list[Checked]]:
    """Deal the training side by content hash; dropped files always join training, so they move no other image.

    A test set dealt here, and calibration, take their share of every class: INT8 ranges come from the latter.
    """
    refuse_both(kept, {"test": test, "validation": validation})
    pool = sorted((s for s in kept if s.split == "train"), key=lambda s: s.content)
    dealt = [s for s in pool if not s.name.startswith("incoming/")]
    testing = [s for s in kept if s.split == "test"] if test == GIVEN else stratified(dealt, test)
    dealt = without(dealt, testing)
    validating = [s for s in kept if s.split == "validation"] if validation == GIVEN else dealt[:validation]
    dealt = without(dealt, validating)
    calibrating = stratified(dealt, calibration)
    return {
        "train": without(pool, [*testing, *validating, *calibrating]),
        "validation": validating,
        "calibration": calibrating,
        "test": testing,
    }


def refuse_both(kept: list[Checked], asked: dict[str, Any]) -> None:
    """Raise `ValueError` where a number is asked for of what the data set sets apart itself: that would be lost."""
    for name, count in asked.items():
        given = sum(each.split == name for each in kept)
        if given and count != GIVEN:
            said = f"{count:,} to set aside, but the data set has {given:,} for {name} itself"
            raise ValueError(f"prepare.{name}: {said}; write: {GIVEN}")


def without(samples: list[Checked], others: list[Checked]) -> list[Checked]:
    """Return the samples whose content none of the others has, in the order given."""
    taken = {each.content for each in others}
    return [each for each in samples if each.content not in taken]


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
