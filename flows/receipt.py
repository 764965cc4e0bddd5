"""The receipt of a deploy: what is live of a pipeline and with what proof; and the same of the version before."""

from pathlib import Path
from typing import Any

from flows.gate import read_json
from flows.repository import Files
from tasks import atomic
from tasks.settings import STATE

FOLDER = STATE / "triton" / "live"
ANSWERS = STATE / "triton" / "answers"
PREVIOUS = STATE / "triton" / "previous"
CANARIES = STATE / "triton" / "canary"  # the sample that the supervisor sends through a version
REFERENCES = STATE / "triton" / "reference"  # what the monitor compares with


def read(pipeline: str) -> dict[str, Any] | None:
    """Return what the last deploy left, if there was one."""
    path = FOLDER / f"{pipeline}.json"
    return read_json(path) if path.exists() else None


def demand(pipeline: str) -> dict[str, Any]:
    """Return the receipt of what is live; `ValueError` where nothing is."""
    left = read(pipeline)
    if left is None:
        raise ValueError(f"nothing of {pipeline} is live; deploy it first: engineworks run {pipeline}")
    return left


def write(pipeline: str, receipt: dict[str, Any], test: str, labels: list[str], before: Files) -> None:
    """Leave a receipt and the labels that the live version gave to the test set whose digest is `test`.

    What they take the place of, and the public models' configurations `before`, are kept for a rollback.
    """
    keep(pipeline, before)
    atomic.write_json(ANSWERS / f"{pipeline}.json", {"package": receipt["sha256"], "test": test, "labels": labels})
    atomic.write_json(FOLDER / f"{pipeline}.json", receipt)


def keep(pipeline: str, configurations: Files) -> None:
    """Remember the live version with the configurations that lead to it, as the one to roll back to."""
    left, answered = read(pipeline), ANSWERS / f"{pipeline}.json"
    if left is not None:
        texts = {str(path): text for path, text in configurations.items()}
        kept = read_json(answered) if answered.exists() else None
        content = {"receipt": left, "answers": kept, "configurations": texts}
        atomic.write_json(PREVIOUS / f"{pipeline}.json", content)


def keep_of(folder: Path, pipeline: str, package: str, content: bytes) -> None:
    """Keep a file of a package's own beside the receipts; older packages' go, but that of the one before stays."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {package, *(each["sha256"] for each in (read(pipeline), (previous(pipeline) or {}).get("receipt")) if each)}
    for path in folder.glob(f"{pipeline}.*"):
        if path.suffix[1:] not in kept:
            path.unlink()
    (folder / f"{pipeline}.{package}").write_bytes(content)


def reference(pipeline: str) -> dict[str, Any] | None:
    """Return what the live version's inputs and answers were like when it was made; None where no deploy left it."""
    path = REFERENCES / f"{pipeline}.{(read(pipeline) or {}).get('sha256')}"
    return read_json(path) if path.exists() else None


def canary(pipeline: str) -> tuple[bytes, str] | None:
    """Return a sample and the label that the live version gives it; None where the deploy left none."""
    left = read(pipeline) or {}
    path = CANARIES / f"{pipeline}.{left.get('sha256')}"
    return (path.read_bytes(), left["canary"]) if "canary" in left and path.exists() else None


def pipelines() -> list[str]:
    """Return the pipelines that are live."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def previous(pipeline: str) -> dict[str, Any] | None:
    """Return receipt, answers and configurations of the version before the live one, None where there was none."""
    path = PREVIOUS / f"{pipeline}.json"
    if not path.exists():
        return None
    found = read_json(path)
    return found | {"configurations": {Path(name): text for name, text in found["configurations"].items()}}


def previous_version(pipeline: str) -> int:
    """Return the number of the version before the live one, 0 where there was none."""
    found = previous(pipeline)
    return int(found["receipt"]["version"]) if found else 0


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
