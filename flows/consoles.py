"""The pages that people open: Prefect's and MLflow's servers, and where everything is found."""

import json
import os
import sys
from pathlib import Path

from flows import addresses
from tasks import settings
from tasks.ledger import PAGE
from tasks.mirror import RUN_KEY, connect, tagged, without_credentials

TRAINING = "?workflowType=machine_learning"  # else MLflow opens on its pages for chat bots


def prefect() -> list[str]:
    """Return the command of Prefect's server and UI."""
    port = str(addresses.port("PREFECT"))
    return [sys.executable, "-m", "prefect", "server", "start", "--host", addresses.HOST, "--port", port]


def mlflow() -> list[str]:
    """Return the command of MLflow's UI over the store that runs are recorded in."""
    home = (settings.STATE / "mlflow").absolute()
    home.mkdir(parents=True, exist_ok=True)
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", addresses.HOST, "--port", str(addresses.port("MLFLOW"))),
        *("--workers", "1", "--backend-store-uri", settings.tracking_uri()),
        *("--artifacts-destination", str(home / "artifacts")),
    ]


def mlflow_environment() -> dict[str, str]:
    """Return the environment of MLflow's UI: no job runners, which cost memory and start-up."""
    return os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_LOGGING_LEVEL": "WARNING"}


def links(pipeline: str | None = None) -> dict[str, str]:
    """Return the addresses that people open; of MLflow the runs of a pipeline, else the list of all."""
    mlflow = found("MLFLOW", "MLFLOW_TRACKING_URI")
    place = f"/{connect(pipeline)[1]}" if pipeline else ""
    return {
        "Prefect": found("PREFECT", "PREFECT_API_URL").removesuffix("/api"),
        "MLflow": f"{mlflow}/#/experiments{place}{TRAINING}" if mlflow.startswith("http") else mlflow,
        "Door": f"http://{addresses.address('HTTP')}",
    }


def found(name: str, variable: str) -> str:
    """Return where people find a server: where `ENGINEWORKS_<name>_PAGE` says, else where we do."""
    theirs = os.environ.get(f"ENGINEWORKS_{name}_PAGE") or addresses.inherited().get(variable)
    return without_credentials(theirs).rstrip("/") if theirs else f"http://{addresses.address(name)}"


def report_page(pipeline: str) -> str | None:
    """Return the address at which MLflow's UI shows the report of a pipeline's recorded run, None without a server.

    MLflow's UI, as its server hands files out for download only.
    """
    home = found("MLFLOW", "MLFLOW_TRACKING_URI")
    if not home.startswith("http"):
        return None
    key = json.loads(Path("models", "record", f"{pipeline}.json").read_text())["run_key"]
    client, experiment_id = connect(pipeline)
    runs = tagged(client, experiment_id, RUN_KEY, key)
    run = min(runs, key=lambda each: each.info.status != "FINISHED")
    return f"{home}/#/experiments/{experiment_id}/runs/{run.info.run_id}/artifacts/{PAGE}{TRAINING}"
