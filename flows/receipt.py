"""The receipt of a deploy: what is live of a pipeline, with what proof; and what it answered on the test set."""

from pathlib import Path
from typing import Any

from flows.gate import read_json
from tasks import atomic
from tasks.settings import STATE

FOLDER = STATE / "triton" / "live"
ANSWERS = STATE / "triton" / "answers"


def read(pipeline: str) -> dict[str, Any] | None:
    """Return what the last deploy left, if there was one."""
    path = FOLDER / f"{pipeline}.json"
    return read_json(path) if path.exists() else None


def write(pipeline: str, receipt: dict[str, Any], test: str, labels: list[str]) -> None:
    """Leave a receipt, and the labels that the live version gave to the test set whose digest is `test`."""
    atomic.write_json(ANSWERS / f"{pipeline}.json", {"package": receipt["sha256"], "test": test, "labels": labels})
    atomic.write_json(FOLDER / f"{pipeline}.json", receipt)


def answers(pipeline: str, test: str) -> list[str] | None:
    """Return what the live version answered on this very test set; None where that is not known."""
    path, live = ANSWERS / f"{pipeline}.json", read(pipeline)
    kept = read_json(path) if path.exists() and live else None
    if kept is None or live is None or (kept["package"], kept["test"]) != (live["sha256"], test):
        return None
    return list(kept["labels"])


def place(pipeline: str) -> Path:
    """Return where a pipeline's receipt lies."""
    return FOLDER / f"{pipeline}.json"
