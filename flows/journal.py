"""The journal of a deploy: written before the live server is touched, so that a killed one can be ended."""

from pathlib import Path
from typing import Any

from flows.gate import read_json
from flows.repository import Files
from tasks import atomic
from tasks.settings import STATE

FOLDER = STATE / "triton" / "journal"


def open_entry(pipeline: str, version: int, before: Files, known: bool = False) -> None:
    """Note which version is coming, the public models' configurations as they are, and whether it was live once."""
    texts = {str(path): text for path, text in before.items()}
    atomic.write_json(FOLDER / f"{pipeline}.json", {"version": version, "before": texts, "known": known})


def entry(pipeline: str) -> dict[str, Any] | None:
    """Return what a deploy that did not end had begun, its configurations by path; None where all ended."""
    path = FOLDER / f"{pipeline}.json"
    if not path.exists():
        return None
    found = read_json(path)
    return found | {"before": {Path(name): text for name, text in found["before"].items()}}


def close(pipeline: str) -> None:
    """Forget a deploy that ended, one way or the other."""
    (FOLDER / f"{pipeline}.json").unlink(missing_ok=True)


def pending() -> list[str]:
    """Return the pipelines whose last deploy did not end."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))
