"""Deploys under traffic: killed at any step, rolled back and forth, raced; no request fails, receipts are true."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import Miniature
from tests.traffic import Traffic

PUBLIC = ("fashion", "fashion_tensor")
PACKAGE = "models/package/fashion/package.json"
# What is killed, right after it was called.
STEPS = {
    "journal written": "journal.open_entry",
    "files staged": "repository.stage",
    "a part loaded": "live.load",
    "one of two public models written": "repository.write",
    "switched": "transaction.switch",
}
QUICK = "one of two public models written"
SCRIPT = """
import os, signal
from flows import addresses; addresses.adopt()
from flows import deploy, journal, live, receipt, repository, sandbox, transaction
whole, public = {step}, [repository.MODELS / name for name in repository.public("fashion")]
def killed(*given, **named):
    whole(*given, **named)
    if "{step}" != "repository.write" or given[0].parent in public:
        os.kill(os.getpid(), signal.SIGKILL)
{step} = killed
deploy.go_live("fashion")
"""


@pytest.fixture
def traffic(ran: Miniature) -> Iterator[Traffic]:
    """Ask for as long as a test lasts; not one request may fail."""
    client = Traffic(ran)
    client.start()
    yield client
    client.end()
    assert client.answered > 100 and client.errors == []


@pytest.fixture(scope="module")
def other(ran: Miniature) -> Iterator[Miniature]:
    """Make a package that differs from the live one, and put the knobs back at the end."""
    params = ran.folder / "params.yaml"
    shipped = params.read_text()
    content = yaml.safe_load(shipped)
    content["pipelines"]["fashion"]["package"]["max_queue_delay_us"] = 50
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    lines = "source .venv/bin/activate; dvc repro --quiet record@fashion"
    done = ran.shell(lines)
    assert done.returncode == 0, done.stdout
    yield ran
    params.write_text(shipped)
    assert ran.shell(lines).returncode == 0
    assert read(ran, "live")["sha256"] == json.loads((ran.folder / PACKAGE).read_text())["sha256"], "as it was"


def read(system: Miniature, name: str) -> Any:
    return json.loads((system.folder / ".state/triton" / name / "fashion.json").read_text())


def python(system: Miniature, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(system.folder / ".venv/bin/python"), "-W", "ignore", "-c", code],
        cwd=system.folder,
        env=system.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def public(system: Miniature) -> set[str]:
    """Return the versions of the engine that the public models point at."""
    texts = [(system.folder / f".state/triton/models/{name}/config.pbtxt").read_text() for name in PUBLIC]
    return {text.partition('model_name: "fashion_engine.')[2].partition('"')[0] for text in texts}


def loaded(system: Miniature, version: int) -> list[bool]:
    """Tell of each replica whether it holds a version's engine."""
    import tritonclient.grpc as triton

    first = int(system.environment["ENGINEWORKS_TRITON_PORT"])
    found = []
    for port in (first + 1, first + 11):
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            found.append(bool(client.is_model_ready(f"fashion_engine.{version}")))
    return found


def stubs(system: Miniature, version: int) -> set[int]:
    """Return the processes that run a version's engine."""
    name = f".state/triton/models/fashion_engine.{version}/"
    running = [each for each in psutil.process_iter(["cmdline"]) if name in " ".join(each.info["cmdline"] or [])]
    return {each.pid for each in running if each.cwd() == str(system.folder)}


def unloaded(system: Miniature, version: int) -> None:
    """Wait until a version's grace time is over and no replica holds it."""
    deadline = time.monotonic() + 20
    while any(loaded(system, version)):
        assert time.monotonic() < deadline, "it stays loaded"
        time.sleep(0.2)


def recovered(system: Miniature, words: str) -> None:
    """Wait until the supervisor ended what a killed deploy left, and says so."""
    deadline = time.monotonic() + 30
    while (system.folder / ".state/triton/journal/fashion.json").exists():
        assert time.monotonic() < deadline, "nobody ended the deploy"
        time.sleep(0.1)
    assert public(system) == {str(read(system, "live")["version"])}
    log = system.folder / ".state/logs/supervisor.log"
    while words not in "".join(log.read_text().splitlines()[-1:]):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.parametrize(
    "step", [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STEPS]
)
def test_a_deploy_killed_before_its_receipt_is_undone(other: Miniature, traffic: Traffic, step: str) -> None:
    before = read(other, "live")
    killed = python(other, SCRIPT.format(step=STEPS[step]))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    recovered(other, "undid a deploy of fashion")
    assert read(other, "live") == before


def test_the_sandbox_of_a_killed_deploy_ends_before_the_next_one_begins(other: Miniature, traffic: Traffic) -> None:
    first, second = killed_in_the_sandbox(other), killed_in_the_sandbox(other)
    assert not first.is_running() and second.is_running()
    assert python(other, "from flows import remains; remains.clear('sandbox')").returncode == 0
    assert not second.is_running() and not list(Path("/dev/shm").glob("engineworks-*-sandbox.*"))


def killed_in_the_sandbox(system: Miniature) -> psutil.Process:
    """Kill a deploy while it tries its package; return the server that it leaves."""
    killed = python(system, SCRIPT.format(step="sandbox.latency"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    found = psutil.Process(json.loads((system.folder / ".state/pids/sandbox.json").read_text())["pid"])
    assert found.name() == "tritonserver" and found.cwd() == str(system.folder)
    return found


def test_a_candidate_that_the_live_champion_beats_is_refused(other: Miniature, traffic: Traffic) -> None:
    """The live version is made out to have answered all of the test set right."""
    before, answers = read(other, "live"), other.folder / ".state/triton/answers/fashion.json"
    assert before["served_accuracy"] < 1, "there is something to be worse at"
    params, kept = other.folder / "params.yaml", answers.read_text()
    shipped = params.read_text()
    params.write_text(shipped.replace("max_champion_drop: 0.005", "max_champion_drop: 0.0"))
    assert params.read_text() != shipped
    code = (
        "import json\nfrom pathlib import Path\nfrom flows import addresses; addresses.adopt()\n"
        "from flows import deploy, promotion\n"
        "path = Path('.state/triton/answers/fashion.json'); kept = json.loads(path.read_text())\n"
        "path.write_text(json.dumps(kept | {'labels': promotion.test_set('fashion').truth}))\n"
        "deploy.go_live('fashion')\n"
    )
    try:
        refused = python(other, code).stderr
        assert "Refused: deploy: " in refused and "over max_champion_drop 0" in refused, refused
        assert f"n={before['n']}" in refused and read(other, "live") == before
    finally:
        answers.write_text(kept)
        params.write_text(shipped)


def test_a_deploy_killed_after_its_receipt_is_finished_and_rolled_back_for_good(
    other: Miniature, traffic: Traffic
) -> None:
    """Within its grace time the version before is still loaded. The next run does not put back what was rolled back."""
    before, params = read(other, "live"), other.folder / "params.yaml"
    shipped = params.read_text()
    params.write_text(shipped.replace("grace_s: 3", "grace_s: 300"))
    assert params.read_text() != shipped
    try:
        killed = python(other, SCRIPT.format(step="receipt.write"))
    finally:
        params.write_text(shipped)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    recovered(other, "finished a deploy of fashion")
    deployed, held = read(other, "live"), stubs(other, before["version"])
    assert deployed["version"] > before["version"] and len(held) == 2
    assert loaded(other, deployed["version"]) == [True, True]
    back = other.shell("python -m flows.cli rollback")
    assert back.returncode == 0 and "is live again" in back.stdout, back.stdout
    assert read(other, "live") == before | {"rolled_back": deployed["sha256"]}
    assert stubs(other, before["version"]) == held, "nothing was loaded"
    unloaded(other, deployed["version"])
    refused = other.shell("python -m flows.cli run")
    assert refused.returncode == 3 and "this very package was rolled back" in refused.stdout, refused.stdout


@pytest.mark.slow
def test_a_second_rollback_takes_the_first_back(other: Miniature, traffic: Traffic) -> None:
    first = read(other, "live")
    for version in (read(other, "previous")["receipt"], first):
        assert other.shell("python -m flows.cli rollback").returncode == 0
        assert read(other, "live")["sha256"] == version["sha256"]
        assert public(other) == {str(read(other, "live")["version"])}
    assert read(other, "live") == first


@pytest.mark.slow
def test_a_replica_that_dies_once_the_receipt_is_written_takes_nothing_back(other: Miniature, traffic: Traffic) -> None:
    """The rollback is told as done; the supervisor brings the replica back with the version that is live."""
    first = read(other, "live")
    code = (
        "from flows import addresses; addresses.adopt()\nfrom flows import rollback, services\nwhole = rollback.swap\n"
        "def kill(*given):\n    whole(*given)\n    services.process('triton-0').kill()\n"
        "rollback.swap = kill\nprint(rollback.go_back('fashion')['version'])\n"
    )
    done = python(other, code)
    assert done.returncode == 0 and "it follows by itself" in done.stdout, done.stdout + done.stderr
    live = read(other, "live")
    assert live["version"] != first["version"]
    recovered(other, "finished a deploy of fashion")
    assert loaded(other, live["version"]) == [True, True]
    unloaded(other, first["version"])
    assert other.shell("python -m flows.cli rollback").returncode == 0
    assert read(other, "live") == first


def test_of_two_deploys_at_once_one_has_the_lock(other: Miniature) -> None:
    holder = "from flows.locking import alone\nwith alone():\n    print('held', flush=True)\n    input()"
    with subprocess.Popen(
        [str(other.folder / ".venv/bin/python"), "-c", holder],
        cwd=other.folder,
        env=other.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        second = python(other, "from flows.locking import alone\nwith alone(): pass")
        assert "another deploy is under way" in second.stderr
        process.communicate("\n")


def test_a_package_that_does_not_come_up_never_reaches_the_live_server(other: Miniature, traffic: Traffic) -> None:
    """Its engine's code is broken; in a path that is not ASCII, this server can't say more than that it ended."""
    before = read(other, "live")
    code = (
        "from pathlib import Path\nfrom flows import addresses; addresses.adopt()\n"
        "from flows import sandbox\nimport shutil\n"
        "aside = Path('.state/triton/broken'); shutil.rmtree(aside, ignore_errors=True)\n"
        "shutil.copytree('models/package/fashion/repository', aside)\n"
        "(aside / 'fashion_engine/1/backend.py').write_text('raise RuntimeError(\"no such kernel\")')\n"
        "with sandbox.sandbox(aside, 'fashion'): pass\n"
    )
    done = python(other, code)
    assert done.returncode != 0 and "ValueError: the sandbox " in done.stderr, done.stderr
    assert "no such kernel" in done.stderr or not str(other.folder).isascii()
    assert read(other, "live") == before
    assert Path(other.folder, ".state/logs/sandbox.log").exists()
