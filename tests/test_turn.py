"""One run at a time, and no stage without an owner: seen with real processes, without a run."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from dvc.lock import LockError

from flows import turn
from flows.graph import Graph
from tasks import guard
from tests.miniature import ROOT

HOLD = "from flows import turn; import time\nwith turn.taken('first'): print('taken', flush=True); time.sleep(60)"
STAGE = """
    import time
    from tasks import guard
    with guard.guarded():
        print('guarded', flush=True)
        time.sleep(60)
"""


def python(code: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """Start a process and wait for its first line."""
    (folder / ".state").mkdir(exist_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline()
    return child


def test_a_second_run_waits_visibly_and_is_refused_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = python(HOLD, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENGINEWORKS_WAIT_S", "1")
    try:
        words = rf"a run of first \(process {first.pid}\) has had this checkout for \d s; waited 1 s .*make down"
        with pytest.raises(ValueError, match=words), turn.taken("second"):
            pass
        assert "waiting, 0 of at most 1 s" in " ".join(capsys.readouterr().out.split())
    finally:
        first.kill()
        first.wait()
    with turn.taken("second"):  # the lock of a killed run ends with it
        assert turn.holder() is not None


def test_the_one_who_waits_has_the_turn_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = python(HOLD.replace("sleep(60)", "sleep(1)"), tmp_path)
    monkeypatch.chdir(tmp_path)
    with turn.taken("second"):
        assert first.wait(5) == 0


def test_down_stops_the_run_that_has_the_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert turn.interrupt() is None
    first = python(HOLD, tmp_path)
    assert turn.interrupt() == "first"
    assert first.wait(5) != 0


def test_down_stops_a_run_though_another_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = python(HOLD, tmp_path)
    second = python(f"print('begun', flush=True)\n{HOLD.replace('first', 'second')}", tmp_path)
    time.sleep(0.5)  # it waits
    try:
        assert "first" in str(turn.interrupt())
        assert first.wait(5) != 0
    finally:
        second.kill()
        second.wait()


@pytest.mark.parametrize("owner", ["dvc", "conductor"])
def test_a_stage_does_not_outlive_its_owners(tmp_path: Path, owner: str) -> None:
    """The one that started it through a shell, as DVC does, and the flow, known by its number."""
    conductor = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (tmp_path / "stage.py").write_text(textwrap.dedent(STAGE))
    line = f"sh -c '{sys.executable} stage.py; true'"
    dvc = python(
        f"import subprocess; subprocess.run({line!r}, shell=True)",
        tmp_path,
        DVC_STAGE="train@toy",
        ENGINEWORKS_CONDUCTOR=str(conductor.pid),
    )
    (stage,) = (p for p in psutil.Process(dvc.pid).children(recursive=True) if "stage.py" in p.cmdline())
    try:
        (dvc if owner == "dvc" else conductor).kill()
        deadline = time.monotonic() + 5
        while stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it lives on"
            time.sleep(0.1)
    finally:
        for each in (dvc, conductor):
            each.kill()
            each.wait()


def test_a_stage_whose_run_is_gone_already_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv("DVC_STAGE", "train@toy")
    monkeypatch.setenv("ENGINEWORKS_CONDUCTOR", str(gone.pid))
    with pytest.raises(ValueError, match="the run that started this stage is gone"), guard.guarded():
        pytest.fail("it began")


def test_what_a_killed_run_left_at_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy:
        """DVC's repository, for a while somebody else's."""

        left = 2

        def status(self, targets: list[str]) -> dict[str, str]:
            Busy.left -= 1
            if Busy.left >= 0:
                raise LockError("'models/train' is busy, it is being blocked by: (PID 7): flows.reproducer")
            return {}

    graph = Graph.__new__(Graph)
    graph.repo = Busy()
    monkeypatch.setattr("flows.graph.PERIOD_S", 0.01)
    assert graph.is_fresh("train@fashion")
    monkeypatch.setattr("flows.graph.PATIENCE_S", 0.0)
    Busy.left = 100
    with pytest.raises(ValueError, match=r"train@fashion: DVC is at work on it elsewhere: .*PID 7"):
        graph.is_fresh("train@fashion")
