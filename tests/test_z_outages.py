"""Servers gone or slow in mid-run: the run waits, goes on, and every tool tells the truth afterwards."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from flows import outages
from tests import console, miniature
from tests.conftest import Miniature
from tests.test_run import ask
from tests.test_z_operations import process, revived

DOWN_S = 150.0  # more than Prefect's client bears by itself
SLOW_S = 30.0


def test_a_wait_says_what_it_waits_for_and_has_an_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outages, "SHOWN_S", 0.0)
    monkeypatch.setattr(outages, "PERIOD_S", 0.01)
    monkeypatch.setattr(outages, "LONGEST_S", 0.1)
    with pytest.raises(ValueError, match="Sirius has not answered for 0 s; finished stages are kept"):
        outages.wait("Sirius", lambda: False)
    assert "Sirius does not answer; waiting" in capsys.readouterr().out
    left = [False, False, True]
    outages.wait("Vega", lambda: left.pop(0))
    assert not left


class Under:
    """A `run` under way, of data that are new; MLflow is asked over HTTP, as on a server, not in its database."""

    def __init__(self, system: Miniature, seed: int) -> None:
        incoming = system.folder / "data/incoming/fashion"
        miniature.drop(incoming, 8, seed=seed)
        self.system, self.log = system, system.folder / ".state/logs/outage.log"
        self.process = subprocess.Popen(
            [system.folder / ".venv/bin/python", "-m", "flows.cli", "run"],
            cwd=system.folder,
            env=system.environment | {"MLFLOW_TRACKING_URI": system.url("MLFLOW")},
            stdin=subprocess.DEVNULL,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def reaches(self, stage: str, timeout_s: float = 300) -> None:
        """Wait until a stage has ended."""
        deadline = time.monotonic() + timeout_s
        while f"\n{stage} " not in self.log.read_text():
            assert time.monotonic() < deadline and self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)

    def ends(self, timeout_s: float = 900) -> str:
        """Wait for its end, which has to be a good one; return what it printed."""
        code = self.process.wait(timeout_s)
        said = self.log.read_text()
        assert code == 0, said
        return said


@pytest.fixture
def system(ran: Miniature) -> Iterator[Miniature]:
    """The miniature; afterwards everything is up, and the new data are gone."""
    yield ran
    for folder in [path for path in (ran.folder / "data/incoming/fashion").iterdir() if path.is_dir()]:
        shutil.rmtree(folder)
    done = ran.shell("make up && python -m flows.cli run")
    assert done.returncode == 0, done.stdout


def unfinished(system: Miniature) -> list[tuple[str, str]]:
    """Return the runs and task runs of `run` that Prefect does not show as ended."""
    left = []
    for kind in ("flow_runs", "task_runs"):
        for each in ask(f"{console.api(system)}/{kind}/filter", {"flows": {"name": {"any_": ["run", "deploy"]}}}):
            if each["state"] and each["state"]["type"] not in (*console.ENDED, "SCHEDULED"):
                left.append((each["name"], each["state"]["name"]))
    return left


def family(system: Miniature, name: str) -> list[psutil.Process]:
    """Return a service's process, and those below it."""
    found = process(system, name)
    assert found is not None
    return [found, *found.children(recursive=True)]


def kill(system: Miniature, *names: str) -> None:
    """Kill whole services, one after the other."""
    for name in names:
        for each in family(system, name):
            each.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gone", "seed", "waits"),
    [
        (("prefect",), 21, None),  # its client asks again and again by itself
        (("mlflow",), 24, "MLflow at http"),
        (("door", "triton-0", "triton-1"), 25, "Triton (triton-0) does not answer; waiting"),
    ],
    ids=["prefect", "mlflow", "triton"],
)
def test_a_server_down_for_minutes_in_mid_run_costs_the_minutes_and_nothing_else(
    system: Miniature, gone: tuple[str, ...], seed: int, waits: str | None
) -> None:
    run = Under(system, seed=seed)
    run.reaches("augment")
    kill(system, "supervisor", "worker", *gone)  # nobody is left to start it anew
    (system.folder / ".state/pids/supervisor.json").unlink()  # else the run has it started anew
    time.sleep(DOWN_S)
    assert run.process.poll() is None, run.log.read_text()
    assert system.shell("make up").returncode == 0
    said = run.ends()
    assert waits is None or waits in said
    assert console.runs(system, "run")[0]["state"]["name"] == "Deployed"
    deadline = time.monotonic() + 60
    while left := unfinished(system):
        assert time.monotonic() < deadline, left
        time.sleep(1)


@pytest.mark.slow
def test_a_run_finds_its_servers_dead_and_has_them_started(system: Miniature) -> None:
    run = Under(system, seed=26)
    run.reaches("augment")
    kill(system, "supervisor", "worker", "triton-0", "triton-1", "door")
    run.ends(300)
    assert console.runs(system, "run")[0]["state"]["name"] == "Deployed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "since", "until"), [("prefect", "prepare", "quantize"), ("mlflow", "select", "record")]
)
def test_a_server_that_answers_after_half_a_minute_slows_a_run_and_fails_none(
    system: Miniature, name: str, since: str, until: str
) -> None:
    every, over = family(system, name), threading.Event()

    def slowly() -> None:
        while not over.is_set():
            for each in every:
                each.suspend()
            over.wait(SLOW_S)
            for each in every:
                each.resume()
            over.wait(2)

    run, slow = Under(system, seed=22), threading.Thread(target=slowly)
    run.reaches(since)
    slow.start()
    try:
        run.reaches(until, timeout_s=900)
    finally:
        over.set()
        slow.join()
    run.ends()
    assert console.runs(system, "run")[0]["state"]["name"] == "Deployed"


@pytest.mark.slow
def test_a_stage_waits_for_the_gpu_and_a_killed_holder_loses_it(system: Miniature) -> None:
    address = f"{console.api(system)}/v2/concurrency_limits"
    known: dict[str, Any] = ask(f"{address}/gpu")
    assert known["limit"] == 1 and known["active"]
    wanted = {"names": ["gpu"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
    assert ask(f"{address}/increment-with-lease", wanted)["limits"]
    server = family(system, "prefect")[0]
    server.kill()  # it knows of the lease afterwards, too
    revived(system, "prefect", server.pid)
    run = Under(system, seed=23)
    run.reaches("augment")
    deadline = time.monotonic() + 60
    while "waiting for the concurrency limit 'gpu'" not in run.log.read_text():
        assert time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.5)
    run.ends()  # nobody renews the lease: it ends after a minute
    assert ask(f"{address}/gpu")["active_slots"] == 0
