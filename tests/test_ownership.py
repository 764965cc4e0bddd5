"""What a killed run leaves is closed, also where MLflow is away for a while."""

import json
from pathlib import Path

import pytest

from flows import ownership
from tests.miniature import free_ports

RUN, DEAD = "00000000-0000-4000-8000-000000000001", 2**22


def test_a_killed_run_stays_marked_until_mlflow_has_closed_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    closed: list[str] = []
    monkeypatch.setattr(ownership, "crash", lambda run: closed.append(run) or True)  # in Prefect, which is not up here
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_ports(1)[0]}")
    ownership.RUNS.mkdir(parents=True)
    mark = ownership.RUNS / f"{RUN}.json"
    mark.write_text(json.dumps({"pid": DEAD, "created": 0.0, "pipeline": "toy", "mlflow_run_id": "0" * 32}))
    assert "killed" in ownership.close_orphans()[0] and mark.exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")  # which knows no such run
    ownership.close_orphans()
    assert not mark.exists() and closed == [RUN, RUN]
