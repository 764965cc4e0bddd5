"""What one machine did another takes over: push, clone, pull, run; no stage is executed again."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import measure
from tests import miniature
from tests.conftest import Miniature


@pytest.fixture(scope="module")
def clone(ran: Miniature) -> Iterator[Miniature]:
    """Push to a folder, clone, pull."""
    folder = ran.folder.parent / "clone"
    lines = [
        "set -e; source .venv/bin/activate",
        "git init -q .",
        "dvc remote add --default --force store ../remote",  # DVC can't write an absolute path with an ä
        "git add -A; git -c user.name=t -c user.email=t@t commit --allow-empty -qm share",
        "dvc push",
        f"git clone -q . '{folder}'; ln -sfn '{ran.folder}/.venv' '{folder}/.venv'",
        f"mkdir -p '{folder}/.state'; ln -sfn '{ran.folder}/.state/serving' '{folder}/.state/serving'",
        f"cd '{folder}'; dvc pull",
    ]
    done = ran.shell("\n".join(lines))
    assert done.returncode == 0, done.stdout
    ours = ran.environment | {k: v for k, v in miniature.environment(folder).items() if k.startswith("ENGINEWORKS")}
    ours["ENGINEWORKS_MIRROR"] = "/nowhere"  # nothing is fetched again
    ours |= {"PREFECT_API_URL": f"{ran.url('PREFECT')}/api", "MLFLOW_TRACKING_URI": ran.url("MLFLOW")}
    system = replace(ran, folder=folder, environment=ours | {"PYTHONPATH": str(folder)})
    yield system
    system.shell("python -m flows.cli down")


def test_a_clone_with_pulled_data_executes_nothing_and_serves_the_same_bytes(ran: Miniature, clone: Miniature) -> None:
    done = clone.shell("python -m flows.cli run")
    assert done.returncode == 0, done.stdout
    assert "0 stages ran" in done.stdout
    theirs, ours = (
        json.loads((system.folder / "models/package/fashion/package.json").read_text()) for system in (ran, clone)
    )
    receipt = json.loads((clone.folder / ".state/triton/live/fashion.json").read_text())
    assert receipt["sha256"] == theirs["sha256"] == ours["sha256"]


def test_timings_of_another_machine_count_nothing_here(clone: Miniature, tmp_path: Path) -> None:
    taken = json.loads((clone.folder / "models/measure/fashion.json").read_text())
    assert measure.foreign(clone.folder / "models/measure/fashion.json") is None
    taken["machine"]["cpu"] = "another CPU"
    (tmp_path / "measure.json").write_text(json.dumps(taken))
    assert measure.foreign(tmp_path / "measure.json") == "measured on another machine: another CPU"


@pytest.mark.slow
def test_a_stage_about_another_machine_is_run_again_and_no_other_before_it(clone: Miniature) -> None:
    """The measurement says it was taken elsewhere, and DVC believes in it."""
    path = clone.folder / "models/measure/fashion.json"
    taken = json.loads(path.read_text())
    taken["machine"]["cpu"] = "another CPU"
    path.write_text(json.dumps(taken))
    assert clone.shell("source .venv/bin/activate; dvc commit -q -f measure@fashion").returncode == 0
    status = clone.shell("python -m flows.cli status")
    assert "measured on another machine: another CPU" in status.stdout, status.stdout
    done = clone.shell("python -m flows.cli run")
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(("train ", "evaluate ", "measure "))]
    assert [line.split()[1] == "fresh" for line in lines] == [True, True, False], done.stdout
    assert measure.foreign(path) is None
