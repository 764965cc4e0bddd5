"""Operations: what Prefect offers, that it comes back after a bad night, and that the loop closes by itself."""

import json
import shutil
import time
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests import console, miniature
from tests.conftest import Miniature
from tests.test_run import ask

NAMES = ["deploy", "monitor", "requalify", "retrain", "rollback", "run", "score"]
SCHEDULED = {"monitor": "*/10 * * * *", "requalify": "0 5 * * 1", "retrain": "0 2 * * 0", "run": "0 3 * * *"}


def process(system: Miniature, name: str) -> psutil.Process | None:
    """Return the living process of a service."""
    mark = json.loads((system.folder / f".state/pids/{name}.json").read_text())
    try:
        found = psutil.Process(mark["pid"])
        return found if found.status() != psutil.STATUS_ZOMBIE and found.create_time() == mark["created"] else None
    except psutil.NoSuchProcess:
        return None


def revived(system: Miniature, name: str, before: int, timeout_s: float = 60) -> None:
    """Wait until a service has another process."""
    deadline = time.monotonic() + timeout_s
    while (now := process(system, name)) is None or now.pid == before:
        assert time.monotonic() < deadline, f"nobody started {name} anew"
        time.sleep(0.2)


def test_prefect_has_every_deployment_its_schedule_and_the_trigger(ran: Miniature) -> None:
    found = {name: console.deployment(ran, name) for name in NAMES}
    crons = {
        name: [each["schedule"]["cron"] for each in one["schedules"] if each["active"]] for name, one in found.items()
    }
    assert crons == {name: [SCHEDULED[name]] if name in SCHEDULED else [] for name in NAMES}
    assert {one["work_pool_name"] for one in found.values()} == {"engineworks"}
    assert all(one["description"] and one["enforce_parameter_schema"] for one in found.values())
    fields = found["score"]["parameter_openapi_schema"]["properties"]
    assert list(fields) == ["pipeline", "folder", "out", "ray"] and all(
        field["description"] for field in fields.values()
    )
    assert "block of params.yaml" in fields["pipeline"]["description"]
    automations = ask(f"{console.api(ran)}/automations/filter", {})
    assert [each["name"] for each in automations] == ["retrain on drift"]


@pytest.mark.parametrize("parameters", [{"pipeline": "No Such!"}, {"pipeline": 3}], ids=str)
def test_a_form_filled_in_wrong_starts_nothing(ran: Miniature, parameters: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        console.start(ran, "run", **parameters)
    assert refused.value.code in (409, 422)


@pytest.mark.slow
def test_a_pipeline_that_there_is_not_fails_with_a_sentence(ran: Miniature) -> None:
    state = console.ended(ran, console.start(ran, "run", pipeline="nothing"))
    assert state["type"] == "FAILED" and "no pipeline 'nothing'; there are: fashion" in state["message"], state


def test_requalify_tries_what_is_live_and_says_so(ran: Miniature) -> None:
    state = console.ended(ran, console.start(ran, "requalify"))
    assert (state["name"], state["type"]) == ("Qualified", "COMPLETED"), state
    rows = console.table(ran, "requalify-fashion")
    assert {name: row["verdict"] for name, row in rows.items()} == dict.fromkeys(
        ("passport", "latency", "answers"), "ok"
    )
    assert rows["answers"]["why"].startswith("400 of 400 as at the deploy")


@pytest.mark.slow
def test_what_was_missed_while_nothing_was_up_runs_once(ran: Miniature) -> None:
    """A night of monitors is one monitor."""
    monitor = console.deployment(ran, "monitor")
    stop = "from flows.services import end, process; end([process('worker')])"
    assert ran.shell(f'.venv/bin/python -c "{stop}"').returncode == 0
    night = datetime.now(UTC) - timedelta(hours=9)
    span = {"start_time": night.isoformat(), "end_time": (night + timedelta(hours=8)).isoformat(), "max_runs": 30}
    ask(f"{console.api(ran)}/deployments/{monitor['id']}/schedule", span | {"min_runs": 30})
    late = {
        "deployments": {"id": {"any_": [monitor["id"]]}},
        "flow_runs": {"expected_start_time": {"before_": span["end_time"]}},
    }
    address = f"{console.api(ran)}/flow_runs/filter"
    assert len(ask(address, late)) >= 20
    assert ran.shell("make up").returncode == 0
    deadline = time.monotonic() + 60
    while len(left := ask(address, late)) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert console.ended(ran, left[0]["id"])["type"] == "COMPLETED"


@pytest.mark.parametrize(
    "name", ["worker", *(pytest.param(each, marks=pytest.mark.slow) for each in ("mlflow", "prefect"))]
)
def test_what_is_killed_is_started_anew(ran: Miniature, name: str) -> None:
    before = process(ran, name)
    assert before is not None
    before.kill()
    revived(ran, name, before.pid)
    assert ran.shell("make up").returncode == 0  # waits until it answers


def test_a_killed_supervisor_is_started_anew_by_the_next_monitor(ran: Miniature) -> None:
    before = process(ran, "supervisor")
    assert before is not None
    before.kill()
    before.wait()
    console.ended(ran, console.start(ran, "monitor"))
    revived(ran, "supervisor", before.pid, timeout_s=5)


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_closed_by_the_next_monitor(ran: Miniature) -> None:
    run = console.start(ran, "requalify")
    mark = ran.folder / f".state/runs/{run}.json"
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = process(ran, "worker")
    assert worker is not None
    for each in (worker, psutil.Process(json.loads(mark.read_text())["pid"])):  # nobody is left to tell Prefect
        each.kill()
    revived(ran, "worker", worker.pid)
    console.ended(ran, console.start(ran, "monitor"))
    state = console.ended(ran, run, timeout_s=5)
    assert state["type"] == "CRASHED" and not mark.exists(), state
    assert console.ended(ran, console.start(ran, "requalify"))["name"] == "Qualified", "its place in the queue is free"


@pytest.fixture
def shifted(ran: Miniature) -> Iterator[Path]:
    """Give pictures such as the network was never shown, dark on white, in folders named by class; all is undone."""
    params = ran.folder / "params.yaml"
    before, place = params.read_text(), ran.folder.parent / "shifted"
    params.write_text(before.replace("max_champion_drop: 0.005", "max_champion_drop: 0.3"))  # it learns two worlds now
    miniature.drop(place, 160, seed=7)
    for path in place.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    yield place
    params.write_text(before)
    shutil.rmtree(ran.folder / ".state/feedback")
    for folder in [path for path in (ran.folder / "data/incoming/fashion").iterdir() if path.is_dir()]:
        shutil.rmtree(folder)
    ran.shell("engineworks rollback fashion; make run")


def right(system: Miniature, folder: Path) -> float:
    """Return the share of a labelled folder that what is live gets right."""
    import pyarrow.parquet

    out = system.folder.parent / "answers.parquet"
    done = system.shell(f"engineworks score fashion '{folder}' --out '{out}'")
    assert done.returncode == 0, done.stdout
    table = pyarrow.parquet.read_table(out).to_pydict()
    out.unlink()
    return float(
        np.mean([path.partition("/")[0] == label for path, label in zip(table["path"], table["label"], strict=True)])
    )


@pytest.mark.slow
def test_the_loop_closes_by_itself(ran: Miniature, shifted: Path) -> None:
    """Shifted pictures arrive, with labels later: noticed, retrained on, live, and not retrained again at once."""
    before = json.loads((ran.folder / ".state/triton/live/fashion.json").read_text())
    retrained = {run["id"] for run in console.runs(ran, "retrain")}
    done = ran.shell(f"engineworks feedback fashion '{shifted}'")
    assert done.returncode == 0 and "160 labels taken in" in done.stdout, done.stdout
    assert "0 labels taken in, 160 were here already" in ran.shell(f"engineworks feedback fashion '{shifted}'").stdout
    time.sleep(2)  # until the servers have written their logs
    state = console.ended(ran, console.start(ran, "monitor", pipeline="fashion"))
    assert state["name"] == "Breached" and "a retraining is called for" in state["message"], state
    rows = console.table(ran, "monitor-fashion")
    verdicts = {name: row["verdict"] for name, row in rows.items()}
    assert verdicts["input drift"] == verdicts["accuracy"] == "breach" and verdicts["canary"] == "ok", rows
    assert "mean of channel 0" in rows["input drift"]["why"]
    deadline = time.monotonic() + 60
    while not (new := [run for run in console.runs(ran, "retrain") if run["id"] not in retrained]):
        assert time.monotonic() < deadline, "the event started no retraining"
        time.sleep(0.5)
    assert new[0]["parameters"]["pipeline"] == "fashion" and "input drift" in new[0]["parameters"]["reason"]
    share = right(ran, shifted)
    state = console.ended(ran, new[0]["id"], timeout_s=300)
    assert state["name"] == "Deployed" and "160 labelled files taken in" in state["message"], state
    after = json.loads((ran.folder / ".state/triton/live/fashion.json").read_text())
    assert after["version"] > before["version"] and right(ran, shifted) > share + 0.2
    time.sleep(2)
    state = console.ended(ran, console.start(ran, "monitor", pipeline="fashion"))
    assert state["name"] == "Breached" and "not retrained again before" in state["message"], state
