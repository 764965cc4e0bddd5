"""Stages as forks: the same bytes as from a process of their own, the same ends, and never beside a GPU's driver."""

import hashlib
import importlib.util
import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.forkserver import PACKAGES
from tests import miniature, toys
from tests.miniature import ROOT

PREPARE = "python -m tasks.command prepare fashion --raw raw --incoming incoming --out"
DRIVER = """
import contextlib, os, signal, sys, threading, time
import psutil
from dvc.stage import run
from dvc.stage.exceptions import StageCmdFailedError
from flows import forkserver

def kill():
    while True:
        for each in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "tasks.command" in " ".join(each.cmdline()):
                    return each.kill()
        time.sleep(0.01)

def die():
    while not any("tasks.command" in " ".join(each.cmdline()) for each in psutil.Process().children(recursive=True)):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

def plainly(*_, **__):
    print("PLAINLY")

if __name__ == "__main__":
    forkserver.PACKAGES = sys.argv[1].split()
    server = forkserver.ForkServer()
    server.install()
    server.loading.join()
    server.plainly = plainly
    for name in sys.argv[3:]:
        threading.Thread(target=globals()[name], daemon=True).start()
    try:
        ours = {"DVC_STAGE": "prepare@toy", "ENGINEWORKS_DVC": str(os.getpid())}
        run._run("/bin/sh", sys.argv[2], env=os.environ | ours, cwd=os.getcwd())
    except StageCmdFailedError as error:
        print("FAILED", error)
"""


SLEEPER = """
import os, pathlib, time
from tasks import command, guard

def main(words):
    pathlib.Path("asleep").write_text(str(os.getpid()))
    with guard.guarded():
        time.sleep(60)

command.main = main
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and raw data, as a stage's command finds it."""
    root = toys.prepared(tmp_path_factory.mktemp("place"))
    miniature.write_params(root, {})
    (root / "driver.py").write_text(DRIVER)
    return root


def drive(place: Path, command: str, *more: str, packages: str = "numpy", path: str = "") -> str:
    """Have a fork server run a command; return what was said."""
    done = subprocess.run(
        [sys.executable, "driver.py", packages, command, *more],
        cwd=place,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{path}"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_fork_leaves_the_bytes_that_a_process_leaves(place: Path) -> None:
    said = drive(place, f"{PREPARE} forked")
    assert "PLAINLY" not in said and "seconds of its own: " in said
    words = [sys.executable, *f"{PREPARE} plain".split()[1:]]
    subprocess.run(words, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert digests(place / "forked") == digests(place / "plain") != {}


def test_a_fork_that_fails_or_is_killed_fails_the_stage(place: Path) -> None:
    said = drive(place, "python -m tasks.command nothing fashion")
    assert "error: no stage 'nothing'" in said and "exited with 1" in said
    assert "exited with -9" in drive(place, f"{PREPARE} killed", "kill")
    assert not (place / "killed").exists()


def test_a_fork_ends_when_dvc_is_killed(place: Path) -> None:
    """Above it is the process that it was forked from, which lives as long as it does."""
    (place / "sleeper.py").write_text(SLEEPER)
    with pytest.raises(AssertionError):
        drive(place, "python -m tasks.command sleep fashion", "die", packages="sleeper", path=str(place))
    stage = psutil.Process(int((place / "asleep").read_text()))
    deadline = time.monotonic() + 10
    while stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.1)


def test_what_is_no_stage_is_run_as_ever(place: Path) -> None:
    assert "PLAINLY" in drive(place, "echo tasks.command")


def test_nothing_is_forked_once_the_driver_of_a_gpu_is_loaded(place: Path) -> None:
    (place / "libcuda.so.1").write_bytes(b" " * 4096)
    (place / "pretender.py").write_text(
        "import mmap\nfile = open('libcuda.so.1', 'r+b')\nheld = mmap.mmap(file.fileno(), 0)\n"
    )
    assert "PLAINLY" in drive(place, f"{PREPARE} never", packages="pretender", path=str(place))
    assert not (place / "never").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_loaded_ahead_is_there(package: str) -> None:
    assert importlib.util.find_spec(package.partition(".")[0]) is not None


def test_dvc_starts_its_commands_as_we_know_it() -> None:
    from dvc.stage import run

    assert list(inspect.signature(run._run).parameters) == ["executable", "cmd", "kwargs"]
    assert "_run(executable, cmd, **kwargs)" in inspect.getsource(run.cmd_run)
