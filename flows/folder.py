"""A folder of pictures as people have it: each file looked at as `prepare` will see it, and all of them hashed."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flows import terminal
from tasks import packing
from tasks.modalities.image import formats, source

FEW = 200  # files that are looked at before other processes would have started
MOST_PROCESSES, CHUNK = 16, 16
GREY = {"1", "L", "LA", "I;16"}  # how Pillow holds what has no colour


@dataclass(frozen=True)
class Seen:
    """A file below the folder: `problem` says why it is of no use; else what it holds.

    `content` is the SHA-256 of its pixels in RGB, as in `prepare`; `grey` the same in grey, where there is no colour.
    """

    name: str
    problem: str | None = None
    stored: str = ""  # 'JPEG RGB'
    width: int = 0
    height: int = 0
    transparent: bool = False
    content: str = ""
    grey: str | None = None

    @property
    def edge(self) -> int:
        """The shorter side in pixels."""
        return min(self.width, self.height)


@dataclass(frozen=True)
class Found:
    """What lies below a folder, hidden things aside: files to pack, in order; links, which are not; empty folders."""

    files: list[Path]
    links: list[Path]
    empty: list[str]


def find(folder: Path) -> Found:
    """Return what lies below a folder; `OSError` names one that may not be opened."""
    links, empty = [], []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = [Path(place, name) for name in (*folders, *names) if not name.startswith(".")]
        links += [path for path in inside if path.is_symlink()]
        empty += [] if inside else [Path(place).relative_to(folder).as_posix()]
    return Found(packing.files(folder), sorted(links), sorted(empty))


def refuse(error: OSError) -> None:
    """Raise what keeps a folder from being listed: it would be passed over without a word."""
    raise error


def look(folder: Path, paths: list[Path]) -> Iterator[Seen]:
    """Yield what each file is, in order, and say how far we are."""
    for number, seen in enumerate(shared(folder, paths), 1):
        terminal.progress("pictures", f"{number:,} of {len(paths):,} files looked at")
        yield seen


def shared(folder: Path, paths: list[Path]) -> Iterator[Seen]:
    """Yield what each file is, in order; many files are shared out among processes."""
    if len(paths) <= FEW:
        yield from map(partial(see, folder), paths)
        return
    workers = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit locks of libraries
    try:
        with ProcessPoolExecutor(workers, spawn, deaf) as pool:
            yield from pool.map(partial(see, folder), paths, chunksize=CHUNK)
    except BrokenProcessPool:
        raise ValueError("memory ran out while pictures were decoded; free some and try again") from None


def deaf() -> None:
    """Leave Ctrl-C to the process that asked us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def see(folder: Path, path: Path) -> Seen:
    """Return what a file is."""
    name = path.relative_to(folder).as_posix()
    if (size := path.stat().st_size) > source.LARGEST_BYTES:
        most = f"more than any image that may be used ({source.LARGEST_BYTES:,})"
        return Seen(name, f"{size:,} bytes, {most}")
    data = path.read_bytes()
    try:
        with formats.judged(data) as image:
            facts = (f"{image.format} {image.mode}", image.width, image.height, transparent(image))
            grey = image.mode in GREY
            pixels = formats.pixels(image, 3)
    except ValueError as error:
        return Seen(name, str(error))
    return Seen(name, None, *facts, digest(pixels), digest(pixels[..., 0]) if grey else None)


def transparent(image: Any) -> bool:
    """Tell whether anything behind a picture would show."""
    if image.mode == "I;16" or not image.has_transparency_data:
        return False
    return bool(image.convert("RGBA").getchannel("A").getextrema()[0] < 255)


def composed(folder: Path, seen: list[Seen], input: source.Input) -> Iterator[Seen]:
    """Yield the files again, each transparent one as it is on the background that `prepare` will draw."""
    for number, each in enumerate(seen, 1):
        terminal.progress("backgrounds", f"{number:,} of {len(seen):,} files")
        try:
            data = (folder / each.name).read_bytes() if each.transparent else b""
            yield replace(each, content=digest(source.decode(data, input)), grey=None) if data else each
        except ValueError as error:
            yield Seen(each.name, str(error))


def digest(pixels: Any) -> str:
    """Return the SHA-256 of an image's shape and pixels, as `prepare` takes it."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


class Digest:
    """A file to write to of which only the SHA-256 is kept."""

    def __init__(self, size: int) -> None:
        self.size, self.written, self.sha256 = size, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Take bytes in."""
        self.sha256.update(data)
        self.written += len(data)
        terminal.progress("SHA-256", f"{self.written / 1e6:,.0f} of {self.size / 1e6:,.0f} MB")
        return len(data)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self.written


def packed(folder: Path, paths: list[Path]) -> str:
    """Return the SHA-256 of the tar that the fetch stage will make of the files."""
    file = Digest(sum(path.stat().st_size for path in paths))
    packing.write(folder, paths, file)
    return file.sha256.hexdigest()
