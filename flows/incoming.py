"""What people may put below data/incoming that DVC can't take: it would crash, or wait for a pipe for ever."""

import os
import stat
from pathlib import Path

INCOMING = Path("data", "incoming")
SHOWN = 5


def check(pipeline: str) -> None:
    """Raise `ValueError` that names such files, and what to do."""
    folder = INCOMING / pipeline
    found = [f"{printable(path)} ({reason})" for path in walk(folder) if (reason := obstacle(path))]
    if found:
        more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(f"{folder}: DVC can't take {', '.join(found[:SHOWN])}{more}; rename or remove them")


def walk(folder: Path) -> list[Path]:
    """Return everything below a folder; links to folders are not followed."""
    return sorted(Path(place) / name for place, folders, files in os.walk(folder) for name in (*folders, *files))


def obstacle(path: Path) -> str | None:
    """Say what keeps DVC from a file; None where it takes it."""
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a link that leads nowhere" if path.is_symlink() else str(error.strerror)
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        return "a pipe, a socket or a device"
    return None


def printable(path: Path) -> str:
    """Return a path in characters that can be printed."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")
