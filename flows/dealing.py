"""How a folder's pictures will be dealt to the splits: the sizes that suit them, and the classes large enough."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tasks.params import file_name
from tasks.prepare import ORDER
from tasks.splits import GIVEN, Checked, split

LEAST = 10  # pictures of a class: fewer can't be in all splits and still teach anything
TEST, CALIBRATION = 0.15, 0.1  # shares of the training side
VALIDATION = (0.15, 0.2, 0.3)  # the first that has a picture of each class: it is dealt without regard to classes
MOST, MOST_CALIBRATION = 2_000, 1_024  # beyond them intervals and ranges gain little, and batches lie in memory


@dataclass(frozen=True)
class Deal:
    """The classes and split sizes for the block, what each split will hold, and why other classes are left out."""

    classes: list[str]
    knobs: dict[str, Any]  # test, validation, calibration, as prepare takes them
    counts: dict[str, list[int]]  # split: of each class
    copies: list[tuple[Checked, Checked]]  # a picture not used, and the one with the same pixels that is
    left: dict[str, str]  # class: why it is left out

    def total(self, name: str) -> int:
        """Return the number of pictures in a split."""
        return sum(self.counts[name])


def deal(samples: list[Checked], names: list[str]) -> Deal:
    """Choose sizes and classes so that each class is in every split, dealt as `prepare` will deal them.

    `names` are the class folders, in order, which labels count. `ValueError` where fewer than two classes remain.
    """
    left = {name: reason for name in names if (reason := unnameable(name))}
    unique, copies = once(samples)
    found = Counter(each.label for each in unique)
    left |= {
        name: f"{found[label]} picture{'s' * (found[label] != 1)}, fewer than {LEAST}"
        for label, name in enumerate(names)
        if name not in left and found[label] < LEAST
    }
    while True:
        chosen = [label for label, name in enumerate(names) if name not in left]
        if len(chosen) < 2:
            reasons = "; ".join(f"{name!r}: {reason}" for name, reason in list(left.items())[:5])
            enough = f"{len(chosen)} class{'es' * (len(chosen) != 1)} with enough pictures"
            copied = f"; {len(copies):,} copies of others do not count" if copies else ""
            raise ValueError(f"{enough}, but 2 are the least ({reasons}){copied}; add pictures")
        kept, copies = once([each for each in samples if each.label in chosen])
        for share in VALIDATION:
            knobs = sizes(kept, share)
            splits = split(kept, **knobs)
            counts = {name: per_class(members, chosen) for name, members in splits.items()}
            thin = [i for i in range(len(chosen)) if not all(numbers[i] for numbers in counts.values())]
            if not thin:
                return Deal([names[label] for label in chosen], knobs, counts, copies, left)
        for i in thin:
            lacking = " and ".join(name for name, numbers in counts.items() if not numbers[i])
            left[names[chosen[i]]] = f"none of its {sum(each[i] for each in counts.values())} would be in {lacking}"


def unnameable(name: str) -> str | None:
    """Say why a folder's name can be no class; None where it can."""
    try:
        file_name(name)
    except ValueError as error:
        return str(error)
    return None


def once(samples: list[Checked]) -> tuple[list[Checked], list[tuple[Checked, Checked]]]:
    """Return the samples that `prepare` will keep, and those of the same content as an earlier one with that one."""
    first: dict[str, Checked] = {}
    kept, copies = [], []
    for each in sorted(samples, key=lambda sample: ORDER.index(sample.split)):
        if each.split != "test" and each.content in first:
            copies.append((each, first[each.content]))
            continue
        first.setdefault(each.content, each)
        kept.append(each)
    return kept, copies


def sizes(kept: list[Checked], share: float) -> dict[str, Any]:
    """Return the numbers to set aside; what the data set sets apart itself stays given."""
    side = Counter(each.split for each in kept)
    return {
        "test": GIVEN if side["test"] else part(side["train"], TEST, MOST),
        "validation": GIVEN if side["validation"] else part(side["train"], share, MOST),
        "calibration": part(side["train"], CALIBRATION, MOST_CALIBRATION),
    }


def part(count: int, share: float, most: int) -> int:
    """Return a share of a number, at least 1."""
    return max(1, min(most, round(share * count)))


def per_class(samples: list[Checked], labels: list[int]) -> list[int]:
    """Count the samples of each class."""
    found = Counter(each.label for each in samples)
    return [found[label] for label in labels]
