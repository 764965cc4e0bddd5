"""The one lock of all deploys and rollbacks: two loads at once can hang the server."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from flows import receipt

HEALING_S = 30.0  # that the supervisor may have the lock: deploys wait for it


class Busy(ValueError):
    """Another process deploys."""


@contextmanager
def alone(wait_s: float = 0) -> Iterator[None]:
    """Hold the lock; `Busy` where another process has it, and has not let go of it after `wait_s`."""
    deadline = time.monotonic() + wait_s
    receipt.FOLDER.mkdir(parents=True, exist_ok=True)
    with (receipt.FOLDER.parent / "deploy.lock").open("w") as file:
        while not taken(file):
            if time.monotonic() > deadline:
                raise Busy(f"{file.name}: another deploy is under way; wait for its end")
            time.sleep(0.1)
        yield


def taken(file: TextIO) -> bool:
    """Take the lock, if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
