"""Mend what a kill or a power cut left torn of DVC's own files, before a run begins."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from flows.damage import Damage, damages
from tasks.settings import STATE

BACKUP = STATE / "backup"
BOOT = STATE / "boot"  # the start of the machine after which the cache was last checked
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BUSY_TIMEOUT_S = 10.0


def repair(root: Path) -> list[str]:
    """Mend what is torn, each file backed up below .state/backup; return a line for each, none where all is well.

    `ValueError` where only a person can mend it, or where another DVC command keeps its files locked.
    """
    lines, restarted = [], is_restarted(root)
    if any(damages(root, restarted)):
        with alone(root):  # and look again: another DVC command may have been writing
            lines = [mend(root, damage) for damage in list(damages(root, restarted))]
    if restarted:
        (root / BOOT).parent.mkdir(exist_ok=True)
        (root / BOOT).write_bytes(BOOT_ID.read_bytes())
    return lines


def is_restarted(root: Path) -> bool:
    """Tell whether the machine was started since the cache was last checked; a kill alone loses no written file."""
    mark = root / BOOT
    return BOOT_ID.exists() and (not mark.exists() or mark.read_bytes() != BOOT_ID.read_bytes())


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the two locks under which DVC writes; they end with their process, so that a leftover file blocks nobody."""
    folder, deadline = root / ".dvc" / "tmp", time.monotonic() + BUSY_TIMEOUT_S
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name in ("lock", "rwlock.lock"):
            file = stack.enter_context((folder / name).open("a"))
            while not lock(file.fileno()):
                if time.monotonic() > deadline:
                    raise ValueError(f".dvc/tmp/{name}: another DVC command is at work here; wait for its end")
                time.sleep(0.05)
        yield


def lock(descriptor: int) -> bool:
    """Take a lock if it is free; tell whether it was."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def mend(root: Path, damage: Damage) -> str:
    """Back a damaged file up, leave its rest in its place, and return the line that says so."""
    backup = root / BACKUP / f"{damage.path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    backup.parent.mkdir(parents=True, exist_ok=True)
    if damage.rest is None:
        shutil.move(damage.path, backup)
    else:
        shutil.copy2(damage.path, backup)
        aside = damage.path.with_name(f"{damage.path.name}.partial")
        with aside.open("wb") as file:
            file.write(damage.rest)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(damage.path)
    return f"{damage.path.relative_to(root)}: {damage.what}; backup: {backup.relative_to(root)}"
