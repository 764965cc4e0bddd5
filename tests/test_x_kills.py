"""Killed, interrupted, twice at once: what is left is true, nobody lives on, and the next run goes on where it was."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import Miniature
from tests.test_run import ask

SLOW = {"target": 0.9999, "schedule_epochs": 20, "max_epochs": 45}  # out of reach: nothing of it goes live


SHIPPED: list[str] = []  # params.yaml as the copy has it


@pytest.fixture(scope="module")
def slow(ran: Miniature) -> Iterator[Miniature]:
    """Give training so much to do that it can be killed in mid-course."""
    params = ran.folder / "params.yaml"
    SHIPPED[:] = [params.read_text()]
    content = yaml.safe_load(SHIPPED[0])
    content["pipelines"]["fashion"]["train"] |= SLOW
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    yield ran
    params.write_text(SHIPPED[0])


class Run:
    """A `make run` under way."""

    def __init__(self, system: Miniature) -> None:
        self.system, self.log = system, system.folder / ".state" / "logs" / "make.log"
        self.process = subprocess.Popen(
            ["make", "run"],
            cwd=system.folder,
            env=system.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def family(self) -> dict[str, psutil.Process]:
        """Return the command line, DVC and the trainer, once training has a checkpoint of its own."""
        found = {}
        for each in psutil.Process(self.process.pid).children(recursive=True):
            words = " ".join(each.cmdline())
            for name, mark in (("cli", "flows.cli"), ("dvc", "flows.reproducer"), ("trainer", "tasks.command train")):
                if mark in words and not words.startswith(("/bin/sh", "sh ")):
                    found[name] = each
        return found

    def training(self) -> dict[str, psutil.Process]:
        """Wait until the trainer wrote a checkpoint; return the family."""
        begun = time.time()
        until(lambda: any(path.stat().st_mtime > begun for path in checkpoints(self.system)), 90)
        return self.family()

    def end(self, timeout_s: float = 30) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it printed."""
        code = self.process.wait(timeout_s)
        return code, self.log.read_text()


def checkpoints(system: Miniature) -> list[Path]:
    return sorted((system.folder / "models/train").glob("fashion.training/*/step-*.ckpt"))


def until(condition: Callable[[], Any], timeout_s: float) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def prefect_states(system: Miniature) -> list[str]:
    """Return the states of the flow runs of this pipeline, newest first."""
    begun = {"flows": {"name": {"any_": ["run"]}}, "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}}
    runs = ask(f"{system.url('PREFECT')}/api/flow_runs/filter", begun | {"sort": "START_TIME_DESC", "limit": 10})
    return [run["state"]["type"] for run in runs if run["name"] == "fashion"]


def mlflow_runs(system: Miniature) -> list[dict[str, Any]]:
    """Return the runs that followed a training, newest first."""
    api = f"{system.url('MLFLOW')}/api/2.0/mlflow"
    experiment = ask(f"{api}/experiments/get-by-name?experiment_name=fashion")["experiment"]["experiment_id"]
    runs = ask(f"{api}/runs/search", {"experiment_ids": [experiment]})["runs"]
    return [run for run in runs if not any(tag["key"] == "mlflow.parentRunId" for tag in run["data"]["tags"])]


def failure(run: dict[str, Any]) -> str:
    return next((tag["value"] for tag in run["data"]["tags"] if tag["key"] == "failure"), "")


@pytest.mark.slow
def test_a_second_run_waits_for_the_first_and_is_refused_in_the_end_and_a_killed_trainer_fails_the_run(
    slow: Miniature,
) -> None:
    run = Run(slow)
    family = run.training()
    second = slow.shell("ENGINEWORKS_WAIT_S=1 python -m flows.cli run")
    assert second.returncode == 1 and "waiting, 0 of at most 1 s" in second.stdout
    assert f"a run of fashion (process {family['cli'].pid}) has had this checkout" in second.stdout
    family["trainer"].send_signal(signal.SIGKILL)
    code, said = run.end()
    assert code != 0 and "train@fashion failed: it ended without a reason" in said
    assert prefect_states(slow)[0] == "FAILED"
    assert mlflow_runs(slow)[0]["info"]["status"] == "FAILED" and "train@fashion" in failure(mlflow_runs(slow)[0])


@pytest.mark.slow
def test_the_next_run_goes_on_and_without_dvc_its_trainer_does_not_live_on(slow: Miniature) -> None:
    before = checkpoints(slow)[-1]
    run = Run(slow)
    family = run.training()
    family["dvc"].send_signal(signal.SIGKILL)
    until(lambda: gone(family["trainer"]), 12)
    code, said = run.end()
    assert code != 0 and "DVC was ended by SIGKILL" in said
    log = (slow.folder / ".state/logs/train-fashion.log").read_text()
    assert re.search(r"going on after \d+ s of training, from step \d+", log), log
    assert checkpoints(slow)[-1] > before


def test_a_signal_ends_the_run_within_ten_seconds_and_every_tool_says_so(slow: Miniature) -> None:
    """Ctrl-C and SIGTERM take the same way."""
    run = Run(slow)
    family = run.training()
    begun = time.monotonic()
    family["cli"].send_signal(signal.SIGTERM)
    code, said = run.end()
    assert time.monotonic() - begun < 10
    assert code != 0 and "interrupted" in said and "Traceback" not in said
    assert all(gone(each) for each in family.values())
    stopped = re.search(
        r"stopped by SIGTERM at step (\d+)", (slow.folder / ".state/logs/train-fashion.log").read_text()
    )
    assert stopped is not None, "DVC is told by a signal of its own"
    kept = int(checkpoints(slow)[-1].stem.removeprefix("step-"))
    assert int(stopped[1]) - kept in (0, 1), "within validation the checkpoint of one batch before is there"
    assert prefect_states(slow)[0] == "CRASHED"
    assert mlflow_runs(slow)[0]["info"]["status"] == "KILLED"


def test_after_a_kill_of_everything_the_next_run_tells_the_truth_and_mends_what_is_torn(slow: Miniature) -> None:
    """The knobs are back, too: everything comes from DVC's run cache, and nothing is recorded twice."""
    run = Run(slow)
    family = run.training()
    for each in (psutil.Process(run.process.pid), *family.values()):
        each.send_signal(signal.SIGKILL)
    run.process.wait()
    assert prefect_states(slow)[0] == "RUNNING" and mlflow_runs(slow)[0]["info"]["status"] == "RUNNING"
    lock = slow.folder / "dvc.lock"
    (slow.folder / "params.yaml").write_text(SHIPPED[0])
    (slow.folder / ".dvc/tmp/rwlock").write_text('{"torn')
    lock.write_bytes(lock.read_bytes()[: lock.stat().st_size // 2])
    done = slow.shell("python -m flows.cli run")
    assert done.returncode == 0 and "0 stages ran" in done.stdout, done.stdout
    assert "closed the run of fashion that was killed" in done.stdout
    assert ".dvc/tmp/rwlock" in done.stdout and "dvc.lock" in done.stdout and ".state/backup" in done.stdout
    assert "CRASHED" in prefect_states(slow) and "RUNNING" not in prefect_states(slow)
    states = [each["info"]["status"] for each in mlflow_runs(slow)]
    assert sorted(states) == ["FINISHED", "KILLED"], "the recorded run, and the training that nobody went on with"
    assert not list((slow.folder / ".state/runs").iterdir())
    shutil.rmtree(slow.folder / ".state/backup")
