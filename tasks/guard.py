"""What guards a running stage: it ends when those who started it are gone, and it says what the machine lacked."""

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

DVC, CONDUCTOR = "ENGINEWORKS_DVC", "ENGINEWORKS_CONDUCTOR"  # process ids: of the DVC that a flow keeps, of the flow
PERIOD_S, GRACE_S = 0.5, 10.0
SHELLS = {"sh", "dash", "bash"}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def guarded() -> Iterator[None]:
    """While the body runs, watch DVC and the flow: a stage must not live on beside its successor.

    `ValueError` where the flow was gone before.
    """
    watched = owners()
    if watched:
        threading.Thread(target=watch, args=(watched,), daemon=True).start()
    yield


def owners() -> list[psutil.Process]:
    """Return the processes that a stage belongs to, DVC and the flow; none where it was started by hand."""
    if "DVC_STAGE" not in os.environ:
        return []
    known = [int(os.environ[name]) for name in (DVC, CONDUCTOR) if os.environ.get(name, "").isdigit()]
    try:
        found = [psutil.Process(number) for number in known]
    except psutil.NoSuchProcess:
        raise ValueError("the run that started this stage is gone; run again") from None
    if DVC not in os.environ:  # no fork, then: DVC is above us
        found += [each for each in psutil.Process().parents() if each.name() not in SHELLS][:1]
    return found


def watch(owners: list[psutil.Process]) -> None:
    """Ask this process to end once an owner is gone, and end it where it does not."""
    while all(lives(each) for each in owners):
        time.sleep(PERIOD_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def lives(process: psutil.Process) -> bool:
    """Tell whether a process still runs; one of the same number that began later does not count."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sentence(error: Exception) -> str:
    """Say in words what went wrong, and what to do where the machine is at fault."""
    if isinstance(error, MemoryError):
        return "out of memory; lower the stage's batch size in params.yaml or free some memory"
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    place = error.filename or "a file"
    if error.errno in FULL:
        place = error.filename2 or place  # of a copy the file that it was to become
        return f"no room to write {place} ({error.strerror}); free some space and run again, finished stages are kept"
    if error.errno in FORBIDDEN:
        return f"{place} can't be written or read ({error.strerror}); change its permissions or move the checkout"
    return f"{place}: {error.strerror}"
