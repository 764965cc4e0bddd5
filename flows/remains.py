"""What we started, by its mark, and what is left of a server that was killed: its children, which hold its ports."""

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import psutil

from tasks import atomic, settings

PIDS = settings.STATE / "pids"
SHARED = Path("/dev/shm")  # where Triton and its Python models meet


def note(name: str, pid: int) -> None:
    """Leave a mark of a process that was started."""
    PIDS.mkdir(parents=True, exist_ok=True)
    atomic.write_json(PIDS / f"{name}.json", {"pid": pid, "created": psutil.Process(pid).create_time()})


def is_noted(name: str) -> bool:
    """Tell whether a process was started and nobody stopped it since; it may have been killed."""
    return (PIDS / f"{name}.json").exists()


def mark(name: str) -> dict[str, Any]:
    """Return the process id of what was started, and when it began."""
    found: dict[str, Any] = json.loads((PIDS / f"{name}.json").read_text())
    return found


def clear(name: str) -> None:
    """End what is left of a process, if anything, and forget it."""
    end_left(name)
    (PIDS / f"{name}.json").unlink(missing_ok=True)


def end_left(name: str) -> None:
    """End what is left of a process, if anything, and its shared memory; it stays one that was started."""
    if is_noted(name):
        end(session(**mark(name)))
    for path in SHARED.glob(f"{shared(name)}*"):
        path.unlink(missing_ok=True)


def shared(name: str) -> str:
    """Return how the names of a server's shared memory begin: with the checkout, and no other server's."""
    return f"engineworks-{zlib.crc32(str(Path.cwd()).encode()):08x}-{name}."


def living(pid: int, created: float) -> psutil.Process | None:
    """Return the process that began then; None where it has ended, though another may have its number by now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid)
        if found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - created) < 1:
            return found
    return None


def session(pid: int, created: float) -> list[psutil.Process]:
    """Return what is alive of the session that a process began, itself included, at work in this checkout.

    A number is not given anew while it is that of a session: where a younger process has it, nothing is left. After a
    restart of the machine it may be that of anybody's session: hence the folder.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(pid).create_time() - created) >= 1:
            return []
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):  # it has just ended, or is another user's
            ours = os.getsid(each.pid) == pid and each.cwd() == str(Path.cwd())
            if ours and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def end(family: list[psutil.Process]) -> None:
    """End processes at once."""
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=10)
