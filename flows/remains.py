"""What is left of a server that was killed: its children, which hold its ports."""

import contextlib
import os

import psutil


def living(pid: int, created: float) -> psutil.Process | None:
    """Return the process that began then; None where it has ended, though another may have its number by now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid)
        if found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - created) < 1:
            return found
    return None


def session(pid: int, created: float) -> list[psutil.Process]:
    """Return what is alive of the session that a process began, itself included.

    A number is not given anew while it is that of a session: where a younger process has it, nothing is left.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(pid).create_time() - created) >= 1:
            return []
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):  # it has just ended
            if os.getsid(each.pid) == pid and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def end(family: list[psutil.Process]) -> None:
    """End processes at once."""
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=10)
