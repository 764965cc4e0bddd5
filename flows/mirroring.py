"""Show a training in MLflow while it runs: its curves file is the truth, MLflow follows a few seconds behind."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PERIOD_S = 5.0


@contextmanager
def mirrored(pipeline: str, watch: bool) -> Iterator[None]:
    """While the body runs, copy new rows of a training's curves to MLflow. What is missed, `record` copies later."""
    if not watch:
        yield
        return
    done = threading.Event()
    follower = threading.Thread(target=follow, args=(pipeline, done), daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join(timeout=60)


def follow(pipeline: str, done: threading.Event) -> None:
    """Mirror until told to stop; a MLflow that does not answer ends the mirroring, never the training."""
    run_id, rows = None, 0
    while not done.wait(PERIOD_S):
        curves = next(iter(Path("models").glob(f"*/{pipeline}.partial/*/curves.csv")), None)
        if curves is None:
            continue
        from mlflow.exceptions import MlflowException

        from tasks.mirror import mirror, open_live_run

        try:
            run_id = run_id or open_live_run(pipeline, curves.parent.name)
            rows = mirror(curves, run_id, rows)
        except FileNotFoundError:
            continue  # training just ended and moved its folder
        except (MlflowException, ValueError) as error:
            logging.getLogger("prefect.engineworks").warning("no live curves in MLflow: %s", error)
            return
