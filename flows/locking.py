"""The one lock of all deploys and rollbacks: two loads at once can hang the server."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from flows import receipt


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock; `ValueError` where another process has it."""
    receipt.FOLDER.mkdir(parents=True, exist_ok=True)
    with (receipt.FOLDER.parent / "deploy.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{file.name}: another deploy is under way; wait for its end") from None
        yield
