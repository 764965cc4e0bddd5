"""Every command of the README, in the miniature copy, in the order it is written; last, because it moves things."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from tests import miniature
from tests.conftest import Miniature
from tests.miniature import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)
TITLES = [text.strip().splitlines()[0][:40] for _, text in BLOCKS]
COMMIT = "git init -q . && git add -A && git -c user.name=t -c user.email=t@t commit --allow-empty -qm start"


@pytest.fixture(scope="module")
def versioned(ran: Miniature) -> Miniature:
    """Put the copy under git, as a clone would be; the next run tells DVC."""
    assert ran.shell(COMMIT).returncode == 0
    return ran


@pytest.mark.parametrize(("kind", "text"), BLOCKS, ids=TITLES)
def test_a_command_of_the_readme_works(versioned: Miniature, kind: str, text: str) -> None:
    environment = {"PYTEST_ADDOPTS": "tests/test_contract.py -k one_name"}  # or `make test` would test itself for ever
    if "curl" in text and shutil.which("curl") is None:
        pytest.skip("this machine has no curl")
    lock = (versioned.folder / "dvc.lock").read_bytes()
    if kind == "python":
        assert "http://127.0.0.1:5000" in text  # the default; the copy listens elsewhere
        text = text.replace("http://127.0.0.1:5000", versioned.url("MLFLOW"))
        text = f".venv/bin/python - <<'END'\n{text}\nEND"
    params, pictures = versioned.folder / "params.yaml", versioned.folder / "pictures"
    before = params.read_bytes()
    if "--images" in text:
        miniature.drop(pictures / "flowers", 120)
    exports = "\n".join(f"export {name}='{value}'" for name, value in environment.items())
    done = versioned.shell(f"set -e\n{exports}\n{text}")
    assert done.returncode == 0, done.stdout
    assert not re.search(r"Traceback|ERROR|alembic", done.stdout), done.stdout
    if "--images" in text:  # the other commands are about the pipeline that ran
        assert "make run PIPELINE=flowers" in done.stdout and params.read_bytes().startswith(before)
        params.write_bytes(before)
        shutil.rmtree(pictures)
    if "make run" in text:  # a second run executes no stage
        assert "0 stages ran" in done.stdout and done.stdout.count("   fresh\n") == 16
        assert (versioned.folder / "dvc.lock").read_bytes() == lock
    if kind == "python":  # a stock client, through MLflow's server
        assert np.array(json.loads(re.search(r"\[\[.*\]\]", done.stdout)[0])).shape == (1, 4)  # type: ignore[index]


def test_the_experiment_left_its_figures_and_one_run_each(versioned: Miniature) -> None:
    verdict = json.loads((versioned.folder / "metrics/train/fashion.json").read_text())
    assert verdict["target"] == 0.85
    assert (versioned.folder / "dvc_plots/index.html").exists()


def test_the_measured_table_is_what_the_benchmarks_left() -> None:
    results = json.loads((ROOT / "benchmarks/results/seeds.json").read_text())
    for row in results["rows"]:
        assert f"{row['served_accuracy']:.4f}" in README, f"seed {row['seed']} is not in the README"


def test_the_table_of_engines_is_what_the_benchmark_left() -> None:
    results = json.loads((ROOT / "benchmarks/results/engines.json").read_text())
    for title, name in (("eager PyTorch FP32", "torch eager FP32"), ("OpenVINO INT8", "OpenVINO INT8 cpu")):
        cells = []
        for network, threads in (("resnet18", 1), ("resnet18", 2), ("fashion", 1)):
            found = [r for r in results[network]["rows"] if (r["threads"], r["batch"], r["name"]) == (threads, 1, name)]
            cells.append(f"{found[0]['ratio']:.1f}")
        assert f"| {title} | {' | '.join(cells)} |" in README.replace("×", "")  # noqa: RUF001
    best = results["resnet18"]["bounds"]
    assert best[0]["ratio"] >= 5 and f"{best[0]['bound']:.1f} times" in README
    assert results["fashion"]["runtimes_agree"]["INT8 cpu"] >= 0.995
    accuracy = results["fashion"]["accuracy"]
    assert accuracy["torch eager FP32"] - accuracy["ONNX Runtime INT8 cpu"] <= 0.005


def test_the_notebook_tells_its_story_over_the_recorded_runs(versioned: Miniature) -> None:
    code = (
        "import nbformat, nbclient\n"
        "book = nbformat.read('notebooks/01_compare_runs.ipynb', 4)\n"
        "nbclient.NotebookClient(book, timeout=120, resources={'metadata': {'path': '.'}}).execute()\n"
        "print(sum(len(cell.get('outputs', [])) for cell in book.cells))"
    )
    done = versioned.shell(f'.venv/bin/python -W ignore -c "{code}"')
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.strip().splitlines()[-1]) >= 4


@pytest.fixture
def shipped(versioned: Miniature) -> Iterator[Miniature]:
    """Put the knobs back."""
    params = versioned.folder / "params.yaml"
    before = params.read_text()
    yield versioned
    params.write_text(before)


def turn_knobs(system: Miniature, section: str, knobs: dict[str, Any]) -> None:
    """Write knobs of one section of the pipeline."""
    path = system.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["pipelines"]["fashion"][section] |= knobs
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def test_a_gate_that_refuses_ends_with_3_and_the_old_version_serves_on(shipped: Miniature) -> None:
    """No engine is quick enough: a recorded refusal with every reason, not a crash."""
    live = shipped.folder / ".state/triton/live/fashion.json"
    before = live.read_text()
    turn_knobs(shipped, "select", {"max_p99_ms": 0.0001})
    done = shipped.shell("python -m flows.cli run")
    assert done.returncode == 3, done.stdout
    assert "refused by a gate" in done.stdout and "over max_p99_ms 0.0001" in done.stdout
    assert live.read_text() == before
    answer = shipped.shell(next(text for _, text in BLOCKS if "request.sh" in text))
    assert '"label"' in answer.stdout


def test_nothing_is_written_outside_the_copy(versioned: Miniature) -> None:
    home = versioned.folder.parent / "home"
    written = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert {name for name in written if not name.startswith(".ipython/")} == set()


def test_down_leaves_nothing_behind(versioned: Miniature) -> None:
    done = versioned.shell("make down && make down")
    assert (
        "stopped door, mlflow, prefect, supervisor, triton-0, triton-1, worker" in done.stdout
        and "nothing was up" in done.stdout
    )
    left = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(versioned.folder):
                left.append(process.cmdline())
        except psutil.Error:
            continue
    assert left == []


def test_a_taken_port_is_an_error_that_names_the_variable(versioned: Miniature) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(versioned.environment["ENGINEWORKS_GRPC_PORT"])))
        taken.listen()
        done = versioned.shell("make up")
    assert done.returncode != 0 and "ENGINEWORKS_GRPC_PORT" in done.stdout
    assert subprocess.run(["pgrep", "-f", str(versioned.folder)], capture_output=True).stdout == b""
