"""Samples in tar archives, found by how they are named; nothing is unpacked."""

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CLASS, SPLIT = "{class}", "{split}"
# What a pattern may hold besides plain text, and what it stands for.
PLACES = {CLASS: "(?P<label>[^/]+)", SPLIT: "(?P<split>[^/]+)", "**": ".*", "*": "[^/]*"}
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Member:
    """A file of an archive: `split` is None where its folder names none that is known."""

    name: str
    split: str | None
    label: int
    size: int
    read: Callable[[], bytes]


def pattern(files: str) -> str:
    """Return a pattern that names classes; for use as a validator."""
    if files.count(CLASS) != 1 or files.count(SPLIT) > 1:
        raise ValueError(
            f"{files!r} has to say once where the class stands, as in train/{CLASS}/*.jpg or {SPLIT}/{CLASS}/*"
        )
    return files


def members(raw: Path, files: str, classes: list[str]) -> Iterator[Member]:
    """Yield the files of the tars in `raw` that are samples of a class; says how many others there are.

    Where `files` names no split, all are training samples. `ValueError` where no file at all is a sample.
    """
    place, found, others = compiled(files), 0, list[str]()
    for path in sorted(raw.glob("*.tar")):
        with tarfile.open(path, "r:") as tar:
            for each in tar:
                match = place.fullmatch(each.name.removeprefix("./"))
                if not each.isfile() or match is None or match["label"] not in classes:
                    others += [each.name] if each.isfile() else []
                    continue
                found += 1
                split = SPLITS.get(match["split"]) if SPLIT in files else "train"
                yield Member(
                    each.name.removeprefix("./"), split, classes.index(match["label"]), each.size, reader(tar, each)
                )
    if not found:
        shown = ", ".join(others[:3]) or "none"
        raise ValueError(
            f"prepare.input.files: no file of {raw} is named {files}, with a class of prepare.classes; "
            f"the first are: {shown}"
        )
    if others:
        print(f"{len(others):,} other files of the archive are no samples of these classes")


def compiled(files: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern."""
    pieces = re.split(r"(\{class\}|\{split\}|\*\*|\*)", files)
    return re.compile("".join(PLACES.get(piece, re.escape(piece)) for piece in pieces))


def reader(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    """Return what reads a member while its archive is open."""

    def read() -> bytes:
        file = tar.extractfile(member)
        assert file is not None
        return file.read()

    return read
