"""One DVC stage as a Prefect task: its lines in the run's log, its noise in a file, one line on the terminal."""

import signal
import time
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from flows import services, terminal
from flows.reproducer import Reproducer
from tasks.command import SECONDS


class StageFailed(Exception):
    """A stage ended in an error; carries its own words."""


@task(cache_policy=NO_CACHE, task_run_name="{name}")
def stage(name: str, fresh: bool, force: bool, dvc: Reproducer) -> State[float]:
    """Let DVC bring one stage up to date; the state's result is the seconds of the stage's own computing.

    A fresh stage starts nothing and ends as Cached; `force` runs one that DVC would leave as it is.
    """
    if fresh:
        terminal.outcome(name, "fresh", "")
        return Completed(name="Cached", message="DVC: nothing it depends on has changed", data=0.0)
    started = time.monotonic()
    seconds, last = run(name, force, dvc)
    if seconds is None:
        terminal.outcome(name, "restored", "from DVC's run cache")
        return Completed(name="Cached", message="DVC: restored from its run cache", data=0.0)
    terminal.outcome(name, f"{time.monotonic() - started:.1f} s", last)
    return Completed(message=last, data=seconds)


def run(name: str, force: bool, dvc: Reproducer) -> tuple[float | None, str]:
    """Have DVC run one stage; return the stage's own seconds (None where it did not run) and its last line."""
    log, log_path = get_run_logger(), services.log_file(name.replace("@", "-"))
    seconds, last = None, ""
    with log_path.open("w") as noise:

        def heard(line: str) -> None:
            nonlocal seconds, last
            noise.write(line)
            if line.startswith(SECONDS):
                seconds = float(line.removeprefix(SECONDS))
            else:
                last = line.rstrip()
                log.info("%s", last)
                terminal.progress(name, last)

        code = dvc.run(name, force, heard, noise)
    if code < 0:
        raise StageFailed(f"{name} failed: DVC was ended by {signal.Signals(-code).name}")
    if code:
        raise StageFailed(f"{name} failed: {words(log_path)}\n  (all of it: {log_path})")
    return seconds, last


def words(log_path: Path) -> str:
    """Return what a failed stage said: from its `error:` line on, else its last one."""
    lines = [line.rstrip() for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if line.startswith("error: ")), None)
    if start is not None:
        return "\n".join(lines[start:]).removeprefix("error: ")
    last = f"; its last line: {lines[-1]}" if lines else ""
    return f"it ended without a reason, as if killed{last}"
