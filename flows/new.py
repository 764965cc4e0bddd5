"""new: a folder of pictures becomes a pipeline: looked at, reported, and written into params.yaml as a block."""

import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from flows import terminal
from flows.block import block
from flows.insertion import insert, refuse_taken
from flows.survey import Survey, survey
from tasks.modalities.image.source import printable
from tasks.params import PARAMS, refuse_no_name

INTERRUPTED = 130
LINK = "a link, which is not followed; put the file itself there"
SHOWN = 5  # of a list of names
ROWS = 40  # of the table of classes


def new(asked: str, images: Path) -> int:
    """Look at a folder, say what it holds, and add a block for it to params.yaml; return 0.

    `ValueError` says why no pipeline can be made of it; params.yaml is as it was then, and after Ctrl-C.
    """
    name = asked.replace("-", "_")
    refuse_no_name(name, "NAME")
    refuse_taken(name)
    if name != asked:
        terminal.paragraph(f"the pipeline is called {name}: names have no hyphens")
    folder = images.expanduser()
    where = place(folder)
    try:
        terminal.paragraph(f"looking at every file of {folder}")
        found = survey(folder, where)
        for line in report(found):
            terminal.say(line)
        insert(name, block(name, found))
    except KeyboardInterrupt:
        terminal.say(f"interrupted; {PARAMS} is as it was")
        return INTERRUPTED
    terminal.say()
    terminal.paragraph(
        f"added to {PARAMS}: pipelines.{name}, each choice with its reason. Read it, train.target above all, then:"
    )
    terminal.say(f"  make run PIPELINE={name}")
    return 0


def place(folder: Path) -> Path:
    """Return what params.yaml will call a folder: relative where it lies in the checkout."""
    if not folder.is_dir():
        raise ValueError(f"--images {printable(folder)}: no such folder")
    whole, here = Path(os.path.normpath(folder.absolute())), Path.cwd()
    inside = whole.relative_to(here) if whole.is_relative_to(here) else whole
    if printable(inside) != str(inside):
        raise ValueError(f"--images {printable(folder)}: params.yaml can't hold this path; rename the folder")
    if here.is_relative_to(whole):
        raise ValueError(f"--images {folder}: this checkout lies in it; put the pictures into a folder of their own")
    return inside


def report(found: Survey) -> Iterator[str]:
    """Give the lines that say what the folder holds and what becomes of it."""
    deal = found.deal
    total = sum(deal.total(name) for name in deal.counts)
    yield from wrapped(
        f"{len(found.seen):,} files; {total:,} pictures of {len(deal.classes)} classes used, named {found.files}"
    )
    sides = [(each.width * each.height, each.width, each.height) for each in found.used]
    least, most = min(sides), max(sides)
    yield from wrapped(
        f"sizes: {least[1]:,} x {least[2]:,} to {most[1]:,} x {most[2]:,} pixels; "
        f"the median shorter side has {found.edge:,}"
    )
    yield from wrapped("stored as " + ", ".join(f"{kind} ({count:,})" for kind, count in found.stored.items()))
    if found.transparent:
        yield from wrapped(f"{found.transparent:,} of them are transparent somewhere")
    given = [name for name in ("test", "validation") if deal.knobs[name] == "given"]
    yield f"splits: {' and '.join(given)} given by the folder" if given else "splits: dealt; the folder gives none"
    yield ""
    yield from table(found)
    yield from left_out(found)


def table(found: Survey) -> Iterator[str]:
    """Give a line per class with the pictures of each split, the largest class first."""
    deal, room = found.deal, terminal.width() - 50
    yield f"{'class':<{room}}{'pictures':>10}" + "".join(
        f"{each:>10}" for each in ("train", "valid.", "calib.", "test")
    )
    order = ("train", "validation", "calibration", "test")
    rows = [(name, [deal.counts[each][i] for each in order]) for i, name in enumerate(deal.classes)]
    rows.sort(key=lambda row: (-sum(row[1]), row[0]))
    for name, numbers in rows[:ROWS]:
        short = name if len(name) < room else f"{name[: room - 2]}…"
        yield f"{short:<{room}}" + "".join(f"{number:>10,}" for number in (sum(numbers), *numbers))
    if len(rows) > ROWS:
        fewest = sum(rows[-1][1])
        yield f"… and {len(rows) - ROWS} more, down to {fewest:,} pictures"


def left_out(found: Survey) -> Iterator[str]:
    """Give what is not used, and why: classes, kinds of files with the first of each, links."""
    unused = found.unused + [(LINK, path.name) for path in found.links]
    kinds: dict[str, tuple[str, list[str]]] = {}  # reasons but for their numbers: the first, and the files
    for why, name in unused:
        kinds.setdefault(re.sub(r"\d+", "", why), (why, []))[1].append(name)
    if not kinds and not found.deal.left:
        return
    yield ""
    yield "not used:"
    for name, why in found.deal.left.items():
        yield from wrapped(f"class {printable(Path(name))}: {why}", "  - ")
    for why, names in sorted(kinds.values(), key=lambda each: -len(each[1])):
        first = ", ".join(printable(Path(name)) for name in names[:SHOWN])
        more = f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        yield from wrapped(f"{len(names):,} file{'s' * (len(names) != 1)}: {why}: {first}{more}", "  - ")


def wrapped(text: str, head: str = "") -> list[str]:
    """Return a sentence as lines that fit the terminal."""
    return textwrap.wrap(
        text, terminal.width(), initial_indent=head, subsequent_indent="  " + " " * len(head), break_on_hyphens=False
    )
