"""DVC, kept loaded for a whole run: starting it anew costs two seconds a stage.

`python -m flows.reproducer` takes stages to bring up to date on its input, a line of JSON each, and ends each on both
of its outputs with a line of its own. What stages say comes in between, as they say it.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

import psutil

from flows.forkserver import ForkServer
from tasks import guard

END = "\x1eend of a stage "  # then its exit code; no stage begins a line so
FAILED = 255
GRACE_S = 10.0


class Reproducer:
    """The process that runs stages, one at a time; started with the first one, so a run without any starts none."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.child: subprocess.Popen[str] | None = None

    def run(self, stage: str, force: bool, heard: Callable[[str], None], noise: IO[str]) -> int:
        """Bring a stage up to date; give each line it says to `heard`, its errors to `noise`; return the exit code.

        Negative where DVC was ended by a signal.
        """
        child = self.child = self.child or self.started()
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        errors = threading.Thread(target=until_end, args=(child.stderr, noise.write), daemon=True)
        errors.start()
        try:
            child.stdin.write(json.dumps({"stage": stage, "force": force}) + "\n")
            child.stdin.flush()
            code = until_end(child.stdout, heard)
        except BaseException:
            self.end()
            raise
        errors.join()
        if code is None:
            self.child = None
            return child.wait() or FAILED
        return code

    def started(self) -> "subprocess.Popen[str]":
        """Start the process, in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.reproducer"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def end(self) -> None:
        """End it with everything it started: a trainer must not outlive its run."""
        child, self.child = self.child, None
        if child is None or child.poll() is not None:
            return
        family = psutil.Process(child.pid).children(recursive=True)
        os.killpg(child.pid, signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=GRACE_S)
        for each in left:
            each.kill()
        child.wait()


def until_end(stream: IO[str], heard: Callable[[str], Any]) -> int | None:
    """Give each line to `heard` until the one that ends a stage; return its code, None where the stream ended first."""
    for line in stream:
        before, mark, code = line.partition(END)
        if before:  # a stage's last words need no newline
            heard(before if mark else line)
        if mark:
            return int(code)
    return None


def main() -> None:
    """Bring stages up to date until there are no more orders; their input is empty, ours is not theirs."""
    os.environ[guard.DVC] = str(os.getpid())  # above a fork is the process that it was forked from
    sys.argv = ["flows.reproducer"]  # DVC notes it in its table of locks, where a repair looks for who is alive
    with os.fdopen(os.dup(0)) as orders:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        ForkServer().install()
        for line in orders:
            code = reproduce(**json.loads(line))
            for stream in (sys.stdout, sys.stderr):
                print(f"{END}{code}", file=stream, flush=True)


def reproduce(stage: str, force: bool) -> int:
    """Run a stage where DVC calls it stale, or anyway; return 0, or another number where it failed."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.exceptions import StageCmdFailedError

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    try:
        with Repo() as repo:
            repo.reproduce(stage, single_item=True, force=force)
    except DvcException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if not isinstance(cause, StageCmdFailedError):  # which has said why
            print(f"error: DVC: {cause}", file=sys.stderr, flush=True)
        return FAILED
    return 0


if __name__ == "__main__":
    main()
