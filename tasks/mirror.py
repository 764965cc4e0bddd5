"""MLflow as a mirror of the files: the connection, the run that follows a training, and its curve."""

import csv
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

FINGERPRINT = "engineworks.fingerprint"
RUN_KEY = "run_key"
FAILURE = "failure"  # tag of a run whose training did not end: why
LONGEST_TAG = 5000  # characters
NOTE = {"mlflow.note.content": "One run a set of inputs, with a nested run for each engine."}
DEFAULTS = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would print credentials, too
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default of 7 blocks each call for minutes when a server is gone
    "GIT_PYTHON_REFRESH": "quiet",  # MLflow imports GitPython, which complains where git is not installed
}


def open_live_run(pipeline: str, fingerprint: str) -> str:
    """Return the id of the RUNNING run that follows a training; one of its fingerprint that was killed is taken up."""
    client, experiment_id = connect(pipeline)
    live = [run for run in tagged(client, experiment_id, FINGERPRINT, fingerprint) if run.info.status != "FINISHED"]
    own = next((run for run in live if RUN_KEY not in run.data.tags), None)
    if own is not None:
        client.update_run(own.info.run_id, status="RUNNING")
        if FAILURE in own.data.tags:
            client.delete_tag(own.info.run_id, FAILURE)
        return str(own.info.run_id)
    tags = {FINGERPRINT: fingerprint, "mlflow.source.name": "engineworks"}
    run = client.create_run(experiment_id, run_name=f"{pipeline}-{fingerprint[:8]}", tags=tags)
    return str(run.info.run_id)


def end_live_run(run_id: str, status: str, reason: str) -> None:
    """Close a run that is not FINISHED, and say why; the next training of the same fingerprint takes it up again."""
    client = new_client()
    if client.get_run(run_id).info.status != "FINISHED":
        client.set_tag(run_id, FAILURE, reason[:LONGEST_TAG])
        client.set_terminated(run_id, status)


def mirror(curves: Path, run_id: str, rows_done: int) -> int:
    """Append the rows of a curves CSV after the first `rows_done` to a run's metrics; return the rows mirrored in all.

    A row that is still being written waits. A row's time stamp is the run's start plus its `seconds`, so that MLflow,
    which holds equal points once, does not double a row mirrored twice.
    """
    rows = complete_rows(curves)
    if len(rows) > rows_done:
        client = new_client()
        start = client.get_run(run_id).info.start_time
        log(client, run_id, metrics=points(rows[rows_done:], start))
    return len(rows)


def complete_rows(curves: Path) -> list[dict[str, str]]:
    """Read the rows of a curves CSV that end in a newline; none where training has not begun it."""
    if not curves.exists():
        return []
    text = curves.read_text()
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def points(rows: list[dict[str, str]], start: int) -> "list[Metric]":
    """Turn rows into metrics `curves/<column>` at their `step`; an empty cell is no point."""
    from mlflow.entities import Metric

    return [
        Metric(f"curves/{column}", float(value), start + round(1000 * float(row["seconds"])), int(row["step"]))
        for row in rows
        for column, value in row.items()
        if column != "step" and value
    ]


def is_faithful(client: "MlflowClient", run_id: str, curves: Path) -> bool:
    """Say whether a run holds the points of a curves CSV and no others (a resumed training may have rewritten some)."""
    wanted: dict[str, int] = {}
    for point in points(complete_rows(curves), 0):
        wanted[point.key] = wanted.get(point.key, 0) + 1
    return all(len(client.get_metric_history(run_id, name)) == count for name, count in wanted.items())


def connect(pipeline: str) -> "tuple[MlflowClient, str]":
    """Return a client and the id of the pipeline's experiment, created where it is missing, restored where deleted.

    `ValueError` where MLflow does not answer.
    """
    client = new_client()
    from mlflow.exceptions import MlflowException

    uri = settings.tracking_uri()
    try:
        experiment = client.get_experiment_by_name(pipeline)
    except MlflowException as error:
        reason = str(error).splitlines()[0].replace(uri, "")[:200]
        raise ValueError(
            f"MLflow at {without_credentials(uri)}: {reason}; start it or set MLFLOW_TRACKING_URI"
        ) from None
    if experiment is None:
        return client, client.create_experiment(pipeline, artifact_location(uri, pipeline), NOTE)
    if local_database(uri) and experiment.artifact_location.startswith("mlflow-artifacts:"):
        raise ValueError(f"experiment '{pipeline}' was made through a server: set MLFLOW_TRACKING_URI to its address")
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return client, experiment.experiment_id


def new_client() -> "MlflowClient":
    """Return a client that writes nothing to the terminal; the folder of a local database is made."""
    load()
    database = local_database(settings.tracking_uri())
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri())


def load() -> None:
    """Import MLflow, which takes seconds, and keep it quiet."""
    settings.quiet()
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow.tracking  # noqa: F401

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # INFO tells of every table made; MLflow sets it at import


def local_database(uri: str) -> Path | None:
    """Return the file of an SQLite address, None for any other."""
    return Path(uri.removeprefix("sqlite:///").split("?")[0]).resolve() if uri.startswith("sqlite:///") else None


def artifact_location(uri: str, pipeline: str) -> str | None:
    """Return where an experiment keeps its files: beside a local database; a server decides for itself (None)."""
    database = local_database(uri)
    return (database.parent / "artifacts" / pipeline).as_uri() if database else None


def without_credentials(uri: str) -> str:
    """Return an address without user and password; an SQLite file below this folder is named from here."""
    database = local_database(uri)
    if database:
        inside = database.is_relative_to(Path.cwd())
        return f"sqlite:///{database.relative_to(Path.cwd()) if inside else database}"
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def tagged(client: "MlflowClient", experiment_id: str, tag: str, value: str | None = None) -> "list[Run]":
    """Return an experiment's runs that carry a tag (of this value, where one is given), newest first."""
    which = f"tags.`{tag}` LIKE '%'" if value is None else f"tags.`{tag}` = '{value}'"
    return list(client.search_runs([experiment_id], which, order_by=["attributes.start_time DESC"]))


def log(
    client: "MlflowClient",
    run_id: str,
    metrics: "Iterable[Metric]" = (),
    params: dict[str, str] | None = None,
    tags: dict[str, Any] | None = None,
) -> None:
    """Write metrics, params and tags in batches as large as MLflow takes them."""
    from mlflow.entities import Param, RunTag

    points_left = list(metrics)
    params_left = [Param(name, value) for name, value in (params or {}).items()]
    client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in (tags or {}).items()])
    while points_left or params_left:
        client.log_batch(run_id, metrics=points_left[:900], params=params_left[:100])
        points_left, params_left = points_left[900:], params_left[100:]
