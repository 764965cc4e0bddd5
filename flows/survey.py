"""What a folder of pictures holds, and how a pipeline will see it."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from flows.dealing import Deal, deal
from flows.folder import Seen, composed, find, look, packed
from flows.layout import pattern
from tasks.modalities.image.archive import SPLIT, SPLITS, compiled
from tasks.modalities.image.source import Input
from tasks.splits import Checked

TINY = 64  # pixels of the median shorter side up to which pictures are fed as they are, grey where they are grey
SMALLEST = 16  # pixels that the small network wants
LARGE = 448  # pixels of the median shorter side from which 224 lose less than they cost
BACKGROUNDS = 4  # drawn ones behind each transparent picture that trains
PLACE, NO_SPLIT = "lies in no class folder", "its folder is no split"
COPY, ASTRAY = "same pixels as another", "same pixels as one of another class; which is right?"


@dataclass(frozen=True)
class Survey:
    """All that the block is written from."""

    folder: Path
    files: str  # the pattern of names
    sha256: str  # of the folder as the fetch stage packs it
    seen: list[Seen]
    used: list[Seen]  # pictures of the classes, copies counted in
    links: list[Path]
    edge: int  # pixels: the median shorter side
    size: int  # pixels: the side of what the network sees
    channels: int  # 1 where a small network is fed with grey pictures; the others want RGB
    backgrounds: int  # drawn behind each transparent picture that trains; 0 where there is none
    deal: Deal
    unused: list[tuple[str, str]]  # why a file is not used, and its name

    @property
    def tiny(self) -> bool:
        """Whether most pictures are too small for a network made for photographs."""
        return self.edge <= TINY

    @property
    def transparent(self) -> int:
        """How many pictures let something behind them show."""
        return sum(each.transparent for each in self.used)

    @property
    def stored(self) -> dict[str, int]:
        """How many pictures are stored in which way, the most frequent first."""
        return dict(Counter(each.stored for each in self.used).most_common())


def survey(folder: Path, where: Path) -> Survey:
    """Look at every file of a folder, which the block will call `where`; `ValueError` says why it can't be used."""
    found = find(folder)
    seen = list(look(folder, found.files))
    good = [each for each in seen if not each.problem]
    if not good:
        first = f"{seen[0].name!r}: {seen[0].problem}"
        raise ValueError(f"{folder}: none of its {len(seen):,} files is a picture that can be used ({first})")
    edge = median_low(each.edge for each in good)
    channels = 1 if edge <= TINY and all(each.grey for each in good) else 3
    backgrounds = BACKGROUNDS if edge > TINY and any(each.transparent for each in good) else 0
    if backgrounds:
        given = {"image_size": fed(edge), "channels": channels, "normalisation": "measured"}
        seen = list(composed(folder, seen, Input.model_validate(given | {"backgrounds": backgrounds})))
        good = [each for each in seen if not each.problem]
    try:
        files = pattern(each.name for each in good)
        names = classes([*(each.name for each in seen), *(f"{name}/0" for name in found.empty)], files)
        samples, unused = labelled(seen, files, names, channels)
        dealt = deal(samples, names)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    unused += [(COPY if a.label == b.label else ASTRAY, f"{a.name} (as {b.name})") for a, b in dealt.copies]
    taken = {each.name for each in samples if names[each.label] in dealt.classes}
    used = [each for each in good if each.name in taken]
    digest = packed(folder, found.files)
    shape = (edge, fed(edge), channels, backgrounds)
    return Survey(where, files, digest, seen, used, found.links, *shape, dealt, unused)


def fed(edge: int) -> int:
    """Return the side of what the network sees, for a median shorter side."""
    return max(SMALLEST, edge) if edge <= TINY else 224 if edge >= LARGE else 160


def classes(names: list[str], files: str) -> list[str]:
    """Return the class folders that names of files speak of, in order."""
    place = compiled(files)
    found = [match for match in map(place.fullmatch, names) if match]
    return sorted({match["label"] for match in found if split_of(match, files)})


def split_of(match: re.Match[str], files: str) -> str | None:
    """Return the split of a name that fits the pattern; None where its folder is no split."""
    return SPLITS.get(match["split"]) if SPLIT in files else "train"


def labelled(
    seen: list[Seen], files: str, names: list[str], channels: int
) -> tuple[list[Checked], list[tuple[str, str]]]:
    """Return the good pictures with their class and split, and the reason of every other file."""
    place, samples, unused = compiled(files), [], []
    for each in seen:
        match = place.fullmatch(each.name)
        split = split_of(match, files) if match else None
        if each.problem or match is None or split is None:
            reason = (each.problem or "").partition(", it begins with")[0]  # which is another for every file
            unused.append((reason or (NO_SPLIT if match else PLACE), each.name))
            continue
        content = (each.grey if channels == 1 else None) or each.content
        samples.append(Checked(each.name, split, b"", names.index(match["label"]), content))
    return samples, unused
