"""One run at a time in a checkout: who has the turn, and waiting for it."""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from flows import terminal
from flows.repair import repair
from tasks.settings import STATE

LOCK = STATE / "turn.lock"
WAIT = "ENGINEWORKS_WAIT_S"  # how long a second run waits for the first
WAIT_S, SHOWN_S, STOP_TIMEOUT_S = 900.0, 15.0, 40.0
_mine: list[str] = []  # a flow that the command line calls has the turn already


@contextmanager
def taken(pipeline: str) -> Iterator[None]:
    """Hold the turn while the body runs; what a killed run left torn is mended first. `ValueError` after the wait."""
    if _mine:
        yield
        return
    with LOCK.open("a+") as file:
        wait(file)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "pipeline": pipeline, "since": time.time()}))
        file.flush()
        _mine.append(pipeline)
        try:
            for line in repair(Path.cwd()):
                terminal.paragraph(line)
            yield
        finally:
            _mine.remove(pipeline)
            file.truncate(0)


def wait(file: IO[str]) -> None:
    """Take the lock, or say every few seconds who has it; `ValueError` once that took too long."""
    bound = float(os.environ.get(WAIT, WAIT_S))
    begun, shown = time.monotonic(), -SHOWN_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited = time.monotonic() - begun
        if waited >= bound:
            raise ValueError(f"{who()}; waited {bound:.0f} s ({WAIT}); stop it with: make down")
        if waited - shown >= SHOWN_S:
            shown = waited
            terminal.say(f"{who()}; waiting, {waited:.0f} of at most {bound:.0f} s")
        time.sleep(0.2)


def who() -> str:
    """Say which run has the turn."""
    found = holder()
    if found is None:
        return "another run has this checkout"
    seconds = time.time() - found["since"]
    return f"a run of {found['pipeline']} (process {found['pid']}) has had this checkout for {seconds:.0f} s"


def holder() -> dict[str, Any] | None:
    """Return who has the turn, None where nobody has."""
    if not LOCK.exists():
        return None
    with LOCK.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            text = file.read()
    return dict(json.loads(text)) if text else None


def interrupt() -> str | None:
    """Ask the run that has the turn to stop, as Ctrl-C would, and whoever waited for it; return their pipelines."""
    asked: dict[int, tuple[str, float]] = {}  # whose run, and when it was asked
    while (found := holder()) is not None:
        pid = found["pid"]
        if pid not in asked:
            asked[pid] = found["pipeline"], time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).send_signal(signal.SIGTERM)
        if time.monotonic() > asked[pid][1] + STOP_TIMEOUT_S:
            raise ValueError(f"{who()} and does not stop; end process {pid} by hand")
        time.sleep(0.2)
    return ", ".join(sorted({pipeline for pipeline, _ in asked.values()})) or None
