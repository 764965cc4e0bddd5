"""Rows on the disk: parts that appear whole or not at all, and in the end one Parquet file of them all."""

import fcntl
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from flows.reading import Row

PART = 2048  # files; what a kill can cost
COLUMNS = ("path", "label", "confidence", "scores", "version", "error")


def walk(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, those of a folder sorted by name; hidden ones are passed over.

    Links, pipes and folders that may not be opened come, too: they get a row that says so.
    """
    with os.scandir(folder) as entries:
        found = sorted((each.name, each.is_dir(follow_symlinks=False)) for each in entries)
    for name, is_folder in found:
        path = folder / name
        if name.startswith("."):
            continue
        if is_folder and os.access(path, os.R_OK | os.X_OK):
            yield from walk(path)
        else:
            yield path


def fingerprint(pipeline: str, folder: Path) -> tuple[str, int]:
    """Return a digest of what is to be scored, by names, sizes and times, and how many files it is."""
    digest, count = hashlib.sha256(f"{pipeline} {PART} {folder.resolve()}".encode()), 0
    for path in walk(folder):
        found = path.lstat()
        facts = f"\0{found.st_size} {found.st_mtime_ns}\n"
        digest.update(os.fsencode(path.relative_to(folder)) + facts.encode())
        count += 1
    return digest.hexdigest()[:16], count


def cut(paths: Iterator[Path], size: int) -> Iterator[list[Path]]:
    """Cut a stream into lists of at most `size`."""
    while some := list(islice(paths, size)):
        yield some


@contextmanager
def alone(out: Path) -> Iterator[Path]:
    """Give the folder of unfinished work, held by this process alone; `ValueError` where another one has it."""
    aside = out.with_name(f"{out.name}.partial")
    aside.mkdir(parents=True, exist_ok=True)
    with (aside / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another `score` writes it just now; wait for it, or name another file") from None
        yield aside


def place(folder: Path, number: int) -> Path:
    """Return where a part lies."""
    return folder / f"{number:06d}.parquet"


def write(path: Path, rows: list[Row]) -> None:
    """Leave a part, whole and on the disk."""
    with appearing(path) as writer:
        writer.write_table(table(rows))


def table(rows: list[Row]) -> Any:
    """Return rows as an Arrow table."""
    import pyarrow as pa

    return pa.table({name: [getattr(row, name) for row in rows] for name in COLUMNS}, schema=schema())


def join(parts: Iterator[Path], out: Path, aside: Path) -> Counter[str | None]:
    """Leave one file of all parts, in their order, one row group each; count the rows by label, errors by None."""
    import pyarrow.parquet as pq

    counts: Counter[str | None] = Counter()
    whole = aside / "whole.parquet"
    with appearing(whole) as writer:
        for path in parts:
            table = pq.read_table(path, schema=schema())
            writer.write_table(table)
            counts.update(table["label"].to_pylist())
    os.replace(whole, out)  # noqa: PTH105
    sync(out.parent)
    shutil.rmtree(aside)
    return counts


@contextmanager
def appearing(path: Path) -> Iterator[Any]:
    """Give a writer of Parquet; the file is there, by its name, once the body has ended and the disk holds it."""
    import pyarrow.parquet as pq

    aside = path.with_suffix(".partial")
    with aside.open("wb") as file:
        with pq.ParquetWriter(file, schema(), compression="zstd") as writer:
            yield writer
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Have the disk hold a folder's names."""
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def schema() -> Any:
    """Return the columns and their types."""
    import pyarrow as pa

    kinds = (pa.string(), pa.string(), pa.float32(), pa.list_(pa.float32()), pa.int32(), pa.string())
    return pa.schema(list(zip(COLUMNS, kinds, strict=True)))
