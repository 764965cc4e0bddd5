"""Does a run come back whole, whatever is killed and when? SIGKILLs at random moments over the miniature path.

    python benchmarks/kills.py [KILLS] [--seed N]

In rounds: something becomes stale (new data, a knob in the middle, a knob near the end), a run begins, and every few
seconds a process drawn by lot is killed: the command line, DVC, a stage, the fork server, Prefect, MLflow, the
worker, the supervisor, a Triton or the door. A run that dies is begun again at once, as a scheduler would. After some
kills the run is left alone and has to come to its end: then each of the round's kills counts as recovered. What is
counted besides: artifacts that are there but not whole; runs and tasks that any tool still shows as running; processes
that nobody owns. Writes benchmarks/results/kills.json.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks.measure import machine  # noqa: E402
from tests import miniature  # noqa: E402
from tests.conftest import Miniature, system  # noqa: E402
from tests.test_run import ask  # noqa: E402

RESULTS = ROOT / "benchmarks/results/kills.json"
SERVICES = ("prefect", "mlflow", "worker", "supervisor", "triton-0", "triton-1", "door")
OURS = {"cli": "flows.cli", "dvc": "flows.reproducer", "stage": "tasks.command", "forks": "multiprocessing.forkserver"}
KILLS, GAP_S = (6, 18), (0.5, 10.0)  # of a round; between two
LONGEST_S = 600.0
RECOVERED = (0, 3)  # done, or refused by a gate
WHOLE = """
from pathlib import Path
from dvc.repo import Repo
wrong = []
with Repo() as repo:
    outs = [out for stage in repo.index.stages if "@fashion" in stage.addressing for out in stage.outs]
    wrong += [str(out) for out in outs if not out.exists or out.changed_checksum()]
left = [str(path) for folder in ("data", "models", "metrics") for path in Path(folder).rglob("*.partial")]
wrong += [path for path in left if ".training" not in path]
print("WRONG", len(wrong), *wrong)
"""


def main(kills: int, seed: int) -> None:
    """Kill, recover, count."""
    lot, rounds, done = random.Random(seed), list[dict[str, Any]](), 0
    with tempfile.TemporaryDirectory() as place:
        here = system(Path(place))
        try:
            first = here.shell("make run", 560)
            assert first.returncode == 0, first.stdout
            while done < kills:
                rounds.append(one_round(here, lot, len(rounds), min(lot.randint(*KILLS), kills - done)))
                done += len(rounds[-1]["killed"])
                print(done, rounds[-1], flush=True)
                write(rounds)
        finally:
            here.shell("make down")


def one_round(here: Miniature, lot: random.Random, number: int, kills: int) -> dict[str, Any]:
    """Kill some processes while runs go on, let the last run end, and return what came of it."""
    row: dict[str, Any] = {"stale": spoil(here, lot, number), "killed": []}
    run = begin(here)
    while len(row["killed"]) < kills:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(lot.uniform(*GAP_S))
        if run.poll() is not None:
            if run.poll() == 0:  # it was done before it was killed often enough
                spoil(here, lot, number * 100 + len(row["killed"]))
            run = begin(here)
            continue
        name = lot.choice([*SERVICES, *OURS])
        victim = found(here, run, name)
        if victim is not None:
            victim.kill()
            row["killed"].append(name)
    begun = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(LONGEST_S)
    if run.poll() is None:
        row["hung"] = True
        run.kill()
    ended = run.wait()
    row["first"] = ended
    done = here.shell("python -m flows.cli run", timeout_s=LONGEST_S + 300)
    row["last"], row["recovery_s"] = done.returncode, round(time.monotonic() - begun, 1)
    said = here.shell(f"python - <<'END'\n{WHOLE}\nEND").stdout
    row["spoilt"] = int(said.partition("WRONG ")[2].split()[0]) if "WRONG" in said else said[-300:]
    row["stuck"], row["orphans"] = stuck(here), orphans(here)
    if done.returncode not in RECOVERED:
        row["said"] = done.stdout[-900:]
    return row


def spoil(here: Miniature, lot: random.Random, number: int) -> str:
    """Make all, half or the end of the path stale, by lot; return which."""
    kind = lot.choice(["data", "quantize", "select"])
    if kind == "data":
        miniature.drop(here.folder / "data/incoming/fashion", 8, seed=1000 + number)
        return kind
    path = here.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    section = params["pipelines"]["fashion"][kind]
    if kind == "quantize":
        section["min_calibration"] = 64 - (section["min_calibration"] - 63) % 32
    else:
        section["max_class_drop"] = round(section["max_class_drop"] + 0.0001, 6)
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    return kind


def begin(here: Miniature) -> "subprocess.Popen[bytes]":
    """Begin a run."""
    return subprocess.Popen(
        [here.folder / ".venv/bin/python", "-m", "flows.cli", "run"],
        cwd=here.folder,
        env=here.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def found(here: Miniature, run: "subprocess.Popen[bytes]", name: str) -> psutil.Process | None:
    """Return the process to kill; None where it is not there just now."""
    if name in SERVICES:
        path = here.folder / f".state/pids/{name}.json"
        try:
            return psutil.Process(json.loads(path.read_text())["pid"]) if path.exists() else None
        except psutil.NoSuchProcess:
            return None
    if run.poll() is not None:
        return None
    family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for each in family:
        try:
            words = each.cmdline()
        except psutil.NoSuchProcess:
            continue
        if any(OURS[name] in word for word in words):
            return each
    return None


def stuck(here: Miniature) -> list[str]:
    """Return the runs that Prefect or MLflow shows as running while none is."""
    states = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    deadline = time.monotonic() + 90  # a monitor may be under way, and Prefect may have just been started anew
    while True:
        try:
            left = [run["name"] for run in ask(f"{here.url('PREFECT')}/api/flow_runs/filter", {"flow_runs": states})]
            left += [run["name"] for run in ask(f"{here.url('PREFECT')}/api/task_runs/filter", {"task_runs": states})]
        except OSError as error:
            left = [repr(error)]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(1)
    code = (
        "import mlflow; from tasks.settings import tracking_uri; mlflow.set_tracking_uri(tracking_uri()); "
        "runs = mlflow.search_runs(search_all_experiments=True, output_format='list'); "
        "print('STUCK', *[run.info.run_name for run in runs if run.info.status == 'RUNNING'])"
    )
    return left + here.shell(f'python -W ignore -c "{code}"').stdout.partition("STUCK")[2].split()


def orphans(here: Miniature) -> list[str]:
    """Return processes in the copy that are neither services nor their children."""
    known = set()
    for path in (here.folder / ".state/pids").glob("*.json"):
        try:
            service = psutil.Process(json.loads(path.read_text())["pid"])
            known |= {service.pid, *(each.pid for each in service.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    left = []
    for each in psutil.process_iter():
        try:
            if each.cwd() == str(here.folder) and each.pid not in known and each.status() != psutil.STATUS_ZOMBIE:
                left.append(" ".join(each.cmdline())[:100])
        except psutil.Error:
            continue
    return left


def write(rounds: list[dict[str, Any]]) -> None:
    """Keep the figures."""
    kills = [name for each in rounds for name in each["killed"]]
    fine = [each for each in rounds if each["last"] in RECOVERED and "hung" not in each]
    content = {
        "machine": machine(os.cpu_count() or 1),
        "kills": len(kills),
        "rounds": len(rounds),
        "recovered": sum(len(each["killed"]) for each in fine),
        "spoilt": sum(each["spoilt"] != 0 for each in rounds),
        "stuck": sum(bool(each["stuck"]) for each in rounds),
        "orphans": sum(bool(each["orphans"]) for each in rounds),
        "killed": dict(Counter(kills)),
        "recovery_s": {
            "median": median(each["recovery_s"] for each in rounds),
            "max": max(each["recovery_s"] for each in rounds),
        },
        "wrong": [each for each in rounds if each not in fine or each["spoilt"] or each["stuck"] or each["orphans"]],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", nargs="?", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    main(**vars(parser.parse_args()))
