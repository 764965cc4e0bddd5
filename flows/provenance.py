"""One truth in three tools: what Prefect, MLflow and the last deploy say of the files as they lie."""

import base64
import json
import logging
import os
import sqlite3
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flows import addresses, receipt
from flows.gate import package, read_json
from tasks import settings
from tasks.champion import ALIAS, version_of
from tasks.mirror import DEFAULTS, RUN_KEY, local_database, tagged, without_credentials
from tasks.params import read
from tasks.record import digests, run_key

if TYPE_CHECKING:
    from mlflow import MlflowClient

TIMEOUT_S = 3.0
PAGE = 200  # Prefect gives at most that many at once
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def prefect_api() -> str:
    """Return the address of Prefect's API."""
    return os.environ.get("PREFECT_API_URL") or addresses.prefect_api()


def ask(path: str, body: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return what Prefect's API answers; None where it does not."""
    headers = {"Content-Type": "application/json"} | authorization()
    request = urllib.request.Request(f"{prefect_api()}/{path}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return list(json.load(answer))
    except (OSError, HTTPException, ValueError):  # nobody there, or somebody else
        return None


def authorization() -> dict[str, str]:
    """Return the header that a Prefect with a password wants (`PREFECT_API_AUTH_STRING`, user:password)."""
    given = os.environ.get("PREFECT_API_AUTH_STRING", "")
    return {"Authorization": f"Basic {base64.b64encode(given.encode()).decode()}"} if given else {}


def last_runs(stages: list[str]) -> dict[str, str] | None:
    """Return when each stage last ran (ISO 8601), as Prefect knows it; None where Prefect does not answer.

    A fresh stage and one restored from DVC's run cache end as Cached, and count as not run.
    """
    found: dict[str, str] = {}
    left = set(stages)
    while left:
        wanted = {"name": {"any_": sorted(left)}, "state": {"name": {"any_": ["Completed"]}}}
        page = ask("task_runs/filter", {"task_runs": wanted, "sort": "END_TIME_DESC", "limit": PAGE})
        if page is None:
            return None
        for run in page:
            found.setdefault(run["name"], run["end_time"])
        left = left - found.keys() if len(page) == PAGE else set()
    return found


def provenance(pipeline: str) -> dict[str, Any]:
    """Return the run key of the files as they lie, and what each tool knows of it."""
    key, missing = key_of(pipeline)
    recorded = in_mlflow(pipeline, key) if key else {"why": "there is no run key to look for"}
    return {
        "run_key": key,
        "missing": missing,
        "mlflow": recorded,
        "prefect": in_prefect(recorded.get("flow_run_id")),
        "deployed": deployed(pipeline),
    }


def key_of(pipeline: str) -> tuple[str | None, list[str]]:
    """Return the run key by the files as they lie, or None and the inputs of record that are missing."""
    from tasks.command import bind

    command = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["record"]["do"]["cmd"]
    words = command.replace("${key}", pipeline).split()
    _, arguments = bind(words[words.index("record") :], read())
    deps = {name: path for name, path in arguments.items() if isinstance(path, Path) and name != "out"}
    missing = [str(path) for path in deps.values() if not path.exists()]
    return (None if missing else run_key(digests(deps), arguments["params"], arguments["backends"])), missing


def in_mlflow(pipeline: str, key: str) -> dict[str, Any]:
    """Return the run of a key in MLflow and whether its model is the champion, or why there is none."""
    uri = settings.tracking_uri()
    database = local_database(uri)
    if database and not database.exists():
        return {"why": f"not recorded: no {without_credentials(uri)}"}
    settings.quiet()
    for name, value in (DEFAULTS | IMPATIENT).items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException

    try:
        with opened(uri, database) as client:
            return run_of(client, pipeline, key) or {"why": "not recorded"}
    except (MlflowException, sqlite3.Error) as error:
        return {"why": f"{without_credentials(uri)}: {str(error).splitlines()[0].replace(uri, '')[:120]}"}


@contextmanager
def opened(uri: str, database: Path | None) -> Iterator["MlflowClient"]:
    """Give a client that leaves the store as it is: of a local database, which MLflow may migrate, it reads a copy."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # MLflow sets it at import
    with tempfile.TemporaryDirectory() as aside:
        if database:
            uri = f"sqlite:///{aside}/mlflow.db"
            source = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
            with closing(source), closing(sqlite3.connect(f"{aside}/mlflow.db")) as copy:
                source.backup(copy)
        yield MlflowClient(uri, uri)


def run_of(client: "MlflowClient", pipeline: str, key: str) -> dict[str, Any] | None:
    """Return the run of a key, a finished one first, None where there is none."""
    experiment = client.get_experiment_by_name(pipeline)
    runs = tagged(client, experiment.experiment_id, RUN_KEY, key) if experiment else []
    if not runs:
        return None
    run = min(runs, key=lambda each: each.info.status != "FINISHED")
    models = client.search_registered_models(f"name = '{pipeline}'")
    number = version_of(client, pipeline, run.info.run_id)
    return {
        "run": run.info.run_name,
        "id": run.info.run_id,
        "status": run.info.status,
        "champion": number is not None and number in {str(model.aliases.get(ALIAS)) for model in models},
        "flow_run_id": run.data.tags.get("flow_run_id", "none"),
    }


def in_prefect(flow_run_id: str | None) -> dict[str, Any]:
    """Return name and state of the flow run that a run in MLflow names, or why there is none."""
    if flow_run_id is None:
        return {"why": "not known without the run in MLflow"}
    if flow_run_id == "none":
        return {"why": "no flow run recorded it"}
    runs = ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
    if runs is None:
        return {"why": f"{without_credentials(prefect_api())} does not answer"}
    if not runs:
        return {"why": f"flow run {flow_run_id} is not there"}
    return {"run": runs[0]["name"], "id": flow_run_id, "state": runs[0]["state_name"]}


def deployed(pipeline: str) -> dict[str, Any]:
    """Return what the last deploy left live and whether it is the package that lies here."""
    live, facts = receipt.read(pipeline), package(pipeline) / "package.json"
    if live is None:
        return {"why": "nothing"}
    same = facts.exists() and read_json(facts)["sha256"] == live["sha256"]
    return {"engine": live["engine"], "version": live["version"], "sha256": live["sha256"], "this_package": same}
