"""Does a run come back whole, whatever is killed and when? SIGKILLs at random moments over the miniature path.

    python benchmarks/kills.py [KILLS] [--seed N]

Each round new data arrive, a run begins, and after a random time one process is killed, drawn by lot: the command line,
DVC, a stage, Prefect's server, MLflow's, the worker, the supervisor or a Triton. Then another run has to come to its
end. What is counted: recoveries; artifacts that are there but not whole; runs that any tool still shows as running;
processes that nobody owns. Writes benchmarks/results/kills.json.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks.measure import machine  # noqa: E402
from tests import miniature  # noqa: E402
from tests.conftest import Miniature, system  # noqa: E402
from tests.test_run import ask  # noqa: E402

RESULTS = ROOT / "benchmarks/results/kills.json"
SERVICES = ("prefect", "mlflow", "worker", "supervisor", "triton-0", "triton-1", "door")
OURS = {"cli": "flows.cli", "dvc": "flows.reproducer", "stage": "tasks.command"}
LONGEST_S = 300.0
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
    lot, rows = random.Random(seed), []
    with tempfile.TemporaryDirectory() as place:
        here = system(Path(place))
        try:
            spent = timed(here)
            for number in range(kills):
                rows.append(killed(here, lot, spent, number))
                print(number + 1, rows[-1], flush=True)
                write(rows)
        finally:
            here.shell("make down")


def timed(here: Miniature) -> float:
    """Run the whole path once and once more with new data; return the seconds of the second."""
    assert here.shell("make run", 560).returncode == 0
    miniature.drop(here.folder / "data/incoming/fashion", 8, seed=1_000_000)
    begun = time.monotonic()
    assert here.shell("make run", 560).returncode in (0, 2)
    return time.monotonic() - begun


def killed(here: Miniature, lot: random.Random, spent: float, number: int) -> dict[str, Any]:
    """Kill one process in mid-run, run again, and return what came of it."""
    miniature.drop(here.folder / "data/incoming/fashion", 8, seed=number + 1)
    run = subprocess.Popen(
        [here.folder / ".venv/bin/python", "-m", "flows.cli", "run"],
        cwd=here.folder,
        env=here.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    after = lot.uniform(1, spent)
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(after)
    name = lot.choice([*SERVICES, *OURS])
    victim = found(here, run, name)
    if victim is not None:
        victim.kill()
    try:
        first: int | None = run.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        first = None
        run.kill()
    begun = time.monotonic()
    done = here.shell("python -m flows.cli run", timeout_s=LONGEST_S + 300)
    row = {
        "killed": name if victim else "nothing",
        "after_s": round(after, 1),
        "first": first,
        "second": done.returncode,
    }
    row["recovery_s"] = round(time.monotonic() - begun, 1)
    row["spoilt"] = here.shell(f"python - <<'END'\n{WHOLE}\nEND").stdout.partition("WRONG ")[2].split() or ["unknown"]
    row["stuck"] = stuck(here)
    row["orphans"] = orphans(here)
    if done.returncode not in (0, 3):
        row["said"] = done.stdout[-600:]
    return row


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
        if OURS[name] in words:
            return each
    return None


def stuck(here: Miniature) -> list[str]:
    """Return the runs that Prefect or MLflow shows as running while none is."""
    states = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    deadline = time.monotonic() + 90  # a monitor may be under way, and Prefect may have just been started anew
    while True:
        try:
            left = [run["name"] for run in ask(f"{here.url('PREFECT')}/api/flow_runs/filter", states)]
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


def write(rows: list[dict[str, Any]]) -> None:
    """Keep the figures."""
    recovered = [row for row in rows if row["second"] in (0, 3)]
    content = {
        "machine": machine(os.cpu_count() or 1),
        "kills": len(rows),
        "recovered": len(recovered),
        "spoilt": sum(row["spoilt"][0] != "0" for row in rows),
        "stuck": sum(bool(row["stuck"]) for row in rows),
        "orphans": sum(bool(row["orphans"]) for row in rows),
        "killed": dict(Counter(row["killed"] for row in rows)),
        "recovery_s": {"median": median(row["recovery_s"] for row in rows), "max": max(r["recovery_s"] for r in rows)},
        "rows": [
            row for row in rows if row not in recovered or row["spoilt"][0] != "0" or row["stuck"] or row["orphans"]
        ],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", nargs="?", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    main(**vars(parser.parse_args()))
