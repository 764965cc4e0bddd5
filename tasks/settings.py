"""Where a run leaves what is not an artifact, and the environment of every process we start."""

import os
from pathlib import Path

STATE = Path(".state")

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "DVC_STUDIO_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",  # since 1.29 ONNX Runtime reports to Microsoft from Linux, too, unless told not to
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
}


def quiet() -> None:
    """Switch telemetry off and keep caches below `.state`, for this process and its children; what is set stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MPLCONFIGDIR", str((STATE / "matplotlib").absolute()))


def tracking_uri() -> str:
    """Return where MLflow keeps its runs: `MLFLOW_TRACKING_URI`, or SQLite below the checkout's `.state`.

    DVC runs a queued experiment in a folder of its own, and names the checkout in `DVC_ROOT`.
    """
    state = Path(os.environ.get("DVC_ROOT", ""), STATE).resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state / 'mlflow' / 'mlflow.db'}"
