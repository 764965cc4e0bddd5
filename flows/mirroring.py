"""Show a training in MLflow while it runs: its curves file is the truth, MLflow follows a few seconds behind."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import ownership
from tasks.train import WORKPLACE

PERIOD_S = 5.0
SLACK_S = 1.0  # file times are coarser than clocks


@contextmanager
def mirrored(pipeline: str, watch: bool) -> Iterator[None]:
    """While the body runs, copy new rows of a training's curves to MLflow; where it fails, say so there.

    What is missed, `record` copies later.
    """
    if not watch:
        yield
        return
    follower = Follower(pipeline)
    follower.start()
    try:
        yield
    except Exception as error:
        follower.end("FAILED", str(error))
        raise
    except BaseException:
        follower.end("KILLED", "interrupted")
        raise
    follower.end(None, "")


class Follower(threading.Thread):
    """Mirrors the training that begins while it lives; a MLflow that does not answer ends the mirroring alone."""

    def __init__(self, pipeline: str) -> None:
        super().__init__(daemon=True)
        self.pipeline, self.begun = pipeline, time.time() - SLACK_S
        self.done = threading.Event()
        self.run_id: str | None = None
        self.rows = 0

    def run(self) -> None:
        """Mirror every few seconds until told to end."""
        from tasks.mirror import load

        load()  # takes a core for seconds: now, while the stage itself begins
        while not self.done.wait(PERIOD_S):
            if not self.follow():
                return

    def follow(self) -> bool:
        """Mirror once; False where MLflow is of no use."""
        training = self.training()
        if training is None:
            return True
        from mlflow.exceptions import MlflowException

        from tasks.mirror import mirror, open_live_run

        try:
            if self.run_id is None:
                self.run_id = open_live_run(self.pipeline, training.name)
                ownership.note_live_run(self.run_id)
            self.rows = mirror(training / "curves.csv", self.run_id, self.rows)
        except (MlflowException, ValueError) as error:
            logging.getLogger("prefect.engineworks").warning("no live curves in MLflow: %s", error)
            return False
        return True

    def training(self) -> Path | None:
        """Return the workplace of a training that wrote there since we follow."""
        found = Path("models").glob(f"*/{self.pipeline}{WORKPLACE}/*")
        return next((path for path in found if path.stat().st_mtime >= self.begun), None)

    def end(self, status: str | None, reason: str) -> None:
        """Stop mirroring; with a status, close the run that followed the training."""
        self.done.set()
        self.join(timeout=60)
        if status is not None and self.follow() and self.run_id is not None:
            from tasks.mirror import end_live_run

            end_live_run(self.run_id, status, reason)
