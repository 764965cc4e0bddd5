"""`engineworks tune` on the live miniature: a short search in a sandbox beside the live servers."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Miniature
from tests.traffic import Traffic

SHORT = "--p99-ms 250 --seconds 0.3 --minutes 0.2 --requests-per-s 20 5000 --headroom 0.5"


@pytest.fixture(scope="module")
def tuned(ran: Miniature) -> tuple[str, Path, list[str]]:
    """Tune once while a client asks the live servers; return what was printed, the folder left, the client's errors."""
    client = Traffic(ran, "grpc")
    client.start()
    done = ran.shell(f".venv/bin/engineworks tune fashion {SHORT}")
    client.end()
    assert done.returncode == 0, done.stdout
    (folder,) = (ran.folder / ".state" / "tune" / "fashion").iterdir()
    return done.stdout, folder, client.errors


def facts(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "tune.json").read_text()))


def test_a_tuning_says_what_it_tried_and_plans_the_servers(tuned: tuple[str, Path, list[str]]) -> None:
    output, folder, _ = tuned
    found = facts(folder)
    assert all(len(line) <= 80 for line in output.splitlines()), output
    assert "the package has instances 1, threads 1, batch 64, delay 0 us" in " ".join(output.split())
    assert "capacity plan: 50% headroom" in output and "the client on the same cores" in " ".join(output.split())
    assert [row["requests_per_s"] for row in found["plan"]] == [20, 5000]
    for row in found["plan"]:
        assert row["servers"] * found["capacity_per_s"] * 0.5 >= row["requests_per_s"]
        assert row["servers_with_a_spare"] == row["servers"] + 1
    assert found["planned"]["requests_per_s"] == pytest.approx(found["capacity_per_s"] / 2, abs=0.1)
    assert ("keep what you have" in output or "as packaged" in output) != ("write into params.yaml" in output)


def test_every_measurement_is_kept_with_its_knobs(tuned: tuple[str, Path, list[str]]) -> None:
    _, folder, _ = tuned
    rows = list(csv.DictReader((folder / "curve.csv").read_text().splitlines()))
    found = facts(folder)
    assert {"search", "final 1", "plan"} <= {row["phase"] for row in rows}
    for row in rows:
        answered, errors = int(row["answered"]), sum(int(each.split("=")[1]) for each in row["errors"].split())
        assert answered + errors >= int(row["sent"]) > 0
        assert row["held"] == "False" or (not errors and float(row["p99_ms"]) <= 250)
    held = [row for row in rows if row["held"] == "True" and row["instances"] == str(found["winner"]["instances"])]
    assert round(max(float(row["asked_per_s"]) for row in held), 1) >= found["capacity_per_s"]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_live_servers_are_left_alone(ran: Miniature, tuned: tuple[str, Path, list[str]]) -> None:
    _, folder, errors = tuned
    assert errors == []
    assert sorted(path.name for path in folder.iterdir()) == ["curve.csv", "curve.png", "tune.json"]
    assert sandboxes(ran) == []


def test_it_is_on_the_champions_run_in_mlflow(ran: Miniature, tuned: tuple[str, Path, list[str]]) -> None:
    from mlflow import MlflowClient

    client, (_, folder, _) = MlflowClient(ran.url("MLFLOW")), tuned
    run = client.get_run(client.get_model_version_by_alias("fashion", "champion").run_id)
    kept = [Path(each.path).name for each in client.list_artifacts(run.info.run_id, f"tune/{folder.name}")]
    assert kept == ["curve.csv", "curve.png", "tune.json"]
    assert run.data.metrics["tune/capacity_per_s"] == facts(folder)["capacity_per_s"]


def sandboxes(system: Miniature) -> list[psutil.Process]:
    """Return the copy's living servers that are not those behind the door, which load models when told."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["cwd"] == str(system.folder) and "/tritonserver " in words and "explicit" not in words:
            found.append(process)
    return found


def test_ctrl_c_ends_the_sandbox_and_keeps_what_was_measured(
    ran: Miniature, tuned: tuple[str, Path, list[str]]
) -> None:
    before = set((ran.folder / ".state" / "tune" / "fashion").iterdir())
    command = [".venv/bin/engineworks", "tune", "fashion", *SHORT.split()]
    child = subprocess.Popen(command, cwd=ran.folder, env=ran.environment, stdout=subprocess.PIPE, text=True)
    new: set[Path] = set()
    deadline = time.monotonic() + 60
    while not any((folder / "curve.csv").exists() for folder in new) and time.monotonic() < deadline:
        time.sleep(0.1)
        new = set((ran.folder / ".state" / "tune" / "fashion").iterdir()) - before
    os.kill(child.pid, signal.SIGINT)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 130 and "interrupted" in output, output
    assert sandboxes(ran) == []
    assert [path.name for path in new.pop().iterdir()] == ["curve.csv"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--p99-ms 0", "p99_ms"),
        ("--p99-ms 20 --headroom 1", "headroom"),
        ("--p99-ms 20 --requests-per-s -5", "requests"),
    ],
)
def test_a_wrong_option_is_refused_by_name(ran: Miniature, options: str, complaint: str) -> None:
    done = ran.shell(f".venv/bin/engineworks tune fashion {options}")
    assert done.returncode == 1 and "error: tune" in done.stdout and complaint in done.stdout
