"""What a flow adds to a recorded run later: files and metrics. No stage's numbers depend on it."""

from pathlib import Path

from tasks.champion import PACKAGE
from tasks.mirror import connect, tagged


def attach(pipeline: str, package: str, folder: Path, place: str, metrics: dict[str, float]) -> str:
    """Put a folder's files and some metrics on the run that made a package: the champion's, where that is live.

    Returns the run's name. `ValueError` where MLflow holds no such run, or does not answer.
    """
    client, experiment_id = connect(pipeline)
    runs = [run for run in tagged(client, experiment_id, PACKAGE, package) if run.info.status == "FINISHED"]
    if not runs:
        raise ValueError("it holds no finished run of this package; run the record stage")
    run = max(runs, key=lambda run: run.data.tags.get("deployed") == "yes")  # else the newest
    client.log_artifacts(run.info.run_id, str(folder), place)
    for name, value in metrics.items():
        client.log_metric(run.info.run_id, name, value)
    return str(run.info.run_name)
