"""The schedule by itself: nothing new is said; new data is trained on and goes live."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import miniature
from tests.conftest import Miniature
from tests.test_run import ask

EVERY_10_S = "* * * * * */10"  # seconds come last


@pytest.fixture(scope="module")
def scheduled(ran: Miniature) -> Iterator[Miniature]:
    """Serve the deployment with a short cron; the supervisor would start a worker anew with the cron as it was."""
    done = ran.shell(f"make down && ENGINEWORKS_CRON='{EVERY_10_S}' make up")
    assert done.returncode == 0, done.stdout
    yield ran
    ran.shell("make down; source .venv/bin/activate; dvc repro --quiet record@fashion")  # what it left undone


def next_state(system: Miniature, after: set[str], timeout_s: float) -> tuple[dict[str, Any], set[str]]:
    """Wait for a scheduled run that is not known yet to end; return its state and the runs known now."""
    api, deadline = f"{system.url('PREFECT')}/api", time.monotonic() + timeout_s
    ended = {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}
    wanted = {"flows": {"name": {"any_": ["run"]}}, "flow_runs": ended}
    while time.monotonic() < deadline:
        runs = [run for run in ask(f"{api}/flow_runs/filter", wanted) if run["auto_scheduled"]]
        new = [run for run in runs if run["id"] not in after]
        if new:
            return min(new, key=lambda run: run["start_time"])["state"], {run["id"] for run in runs}
        time.sleep(0.5)
    raise AssertionError("no scheduled run came to an end")


@pytest.fixture
def dropped(scheduled: Miniature) -> Iterator[Miniature]:
    """Take the new data away again."""
    yield scheduled
    incoming = scheduled.folder / "data/incoming/fashion"
    for folder in [path for path in incoming.iterdir() if path.is_dir()]:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_new_data_is_taken_in_and_goes_live_by_itself(dropped: Miniature) -> None:
    live = dropped.folder / ".state/triton/live/fashion.json"
    before = json.loads(live.read_text())
    state, known = next_state(dropped, set(), 90)
    assert (state["name"], state["message"]) == ("Completed", "nothing new")
    miniature.drop(dropped.folder / "data/incoming/fashion", count=40)
    while state["message"] == "nothing new":  # one may have begun before the files were there
        state, known = next_state(dropped, known, 150)
    assert state["name"] == "Deployed", state
    after = json.loads(live.read_text())
    assert after["version"] > before["version"] and after["sha256"] != before["sha256"]
    report = json.loads((dropped.folder / "data/prepare/fashion/report.json").read_text())
    assert report["seen"] == 2040 == sum(report["used"].values())


@pytest.mark.slow
def test_the_schedule_fires_says_nothing_new_starts_on_new_data_and_down_stops_it(dropped: Miniature) -> None:
    state, _ = next_state(dropped, set(), 90)
    assert (state["name"], state["message"]) == ("Completed", "nothing new")
    miniature.drop(dropped.folder / "data/incoming/fashion", count=20)
    report = dropped.folder / "data/prepare/fashion/report.json"
    deadline = time.monotonic() + 90
    while not report.exists() or json.loads(report.read_text())["seen"] != 2020:  # DVC takes it away for the new one
        assert time.monotonic() < deadline, "nobody took the new data in"
        time.sleep(0.5)
    done = dropped.shell("make down")
    assert "stopped the run of fashion" in done.stdout and "prefect" in done.stdout, done.stdout
    assert subprocess.run(["pgrep", "-f", str(dropped.folder)], capture_output=True).stdout == b""
    assert dropped.shell("make up").returncode == 0
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    deadline = time.monotonic() + 60
    while left := [run["name"] for run in ask(f"{dropped.url('PREFECT')}/api/flow_runs/filter", running)]:
        assert time.monotonic() < deadline, f"still running, says Prefect: {left}"
        time.sleep(0.5)
