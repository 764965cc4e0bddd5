"""A folder as one tar whose bytes depend on the names and contents of its files, and on nothing else."""

import tarfile
from pathlib import Path
from typing import Any


def pack(folder: Path, to: Path) -> None:
    """Leave the files below a folder in a tar, in order; `ValueError` where the folder has none.

    Hidden ones and what is no file of its own (links, pipes) stay out.
    """
    paths = files(folder)
    with to.open("wb") as file:
        write(folder, paths, file)


def files(folder: Path) -> list[Path]:
    """Return the files to pack, in order; `ValueError` where there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    paths = [path for path in sorted(folder.rglob("*")) if own(path.relative_to(folder), path)]
    if not paths:
        raise ValueError(f"{folder}: no file in it")
    return paths


def write(folder: Path, paths: list[Path], to: Any) -> None:
    """Write files below a folder as a tar to what has `write` and `tell`."""
    with tarfile.open(fileobj=to, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in paths:
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)


def own(inside: Path, path: Path) -> bool:
    """Tell whether a path is a file to pack."""
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and not path.is_symlink() and path.is_file()
