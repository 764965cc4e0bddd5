"""What a killed run leaves is closed, also where MLflow is away for a while."""

import json
import subprocess
from pathlib import Path

from tests.conftest import Miniature
from tests.miniature import ROOT, free_ports

RUN, DEAD = "00000000-0000-4000-8000-000000000001", 2**22  # which neither server knows; no process has such a number
CODE = """
import os
from flows import addresses; addresses.adopt()
from flows import ownership
for address in (%r, %r):
    os.environ["MLFLOW_TRACKING_URI"] = address
    ownership.close_orphans()
    print("MARKED", len(list(ownership.RUNS.glob("*.json"))))
"""


def test_a_killed_run_stays_marked_until_mlflow_has_closed_its_training(ran: Miniature, tmp_path: Path) -> None:
    """In a folder of its own, so that no monitor closes it, with the servers of the miniature."""
    runs = tmp_path / ".state/runs"
    runs.mkdir(parents=True)
    mark = {"pid": DEAD, "created": 0.0, "pipeline": "toy", "mlflow_run_id": "0" * 32}
    (runs / f"{RUN}.json").write_text(json.dumps(mark))
    api = {"PREFECT_API_URL": f"{ran.url('PREFECT')}/api", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [ran.folder / ".venv/bin/python", "-W", "ignore", "-c", CODE % (nowhere(), ran.url("MLFLOW"))],
        cwd=tmp_path,
        env=ran.environment | api,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["MARKED", "1", "MARKED", "0"], done.stdout + done.stderr


def nowhere() -> str:
    """Return an address at which no server listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"
