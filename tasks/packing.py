"""A folder as one tar whose bytes depend on the names and contents of its files, and on nothing else."""

import tarfile
from pathlib import Path


def pack(folder: Path, to: Path) -> None:
    """Leave the files below a folder in a tar, in order; `ValueError` where the folder has none.

    Hidden ones and what is no file of its own (links, pipes) stay out.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    paths = [path for path in sorted(folder.rglob("*")) if own(path.relative_to(folder), path)]
    if not paths:
        raise ValueError(f"{folder}: no file in it")
    with tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in paths:
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)


def own(inside: Path, path: Path) -> bool:
    """Tell whether a path is a file to pack."""
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and not path.is_symlink() and path.is_file()
