"""What do Prefect, DVC and MLflow cost beside the stages themselves?

    python benchmarks/orchestration.py [ROUNDS] [--parts script fresh mirror training]

In a clone of this checkout. `script`: every stage of fashion run by `engineworks run`, its servers up, and the same
commands one after the other in a shell script without any of them, in turns, nothing cached; without the deploy: the
script has none. `fresh`: a run in which all is fresh, its stages (from the first one's begin to the last one's end) and
its whole. `mirror`: what a training's curves in MLflow take per value. `training`: the training beside that mirroring
and without it, in turns. Keeps what it does not measure anew. Writes benchmarks/results/orchestration.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks.measure import machine  # noqa: E402
from tests.miniature import environment  # noqa: E402

RESULTS = ROOT / "benchmarks/results/orchestration.json"
MADE = ("data/prepare", "data/augment", "models", "metrics", "dvc.lock", ".dvc/cache", ".dvc/tmp")
COMMANDS = """
from flows.graph import Graph
graph = Graph("fashion")
known = {stage.addressing: stage.cmd for stage in graph.repo.index.stages}
print("\\n".join(" ".join(known[name].split()) for name in graph.stages()))
"""


MIRROR = """
import time
from pathlib import Path
from tasks.mirror import mirror, open_live_run
columns = ["step", "seconds", *(f"m{i}" for i in range(11))]
lines = [",".join(columns)] + [",".join(map(str, [i, i / 10, *[i / 7] * 11])) for i in range(1000)]
for turn in range(6):  # the first is warm-up
    run = open_live_run("orchestration", f"benchmark-{turn}-{time.time()}")
    path = Path(f"curves-{turn}.csv")
    path.write_text("\\n".join(lines) + "\\n")
    begun = time.perf_counter()
    mirror(path, run, 0)
    print("MS", 1000 * (time.perf_counter() - begun) / (1000 * 12))
"""
TRAINING = """
import json, shlex, subprocess, sys
from flows.mirroring import mirrored
with mirrored("fashion", watch=sys.argv[1] == "on"):
    subprocess.run(shlex.split(sys.argv[2]), check=True, stdout=subprocess.DEVNULL)
print("SECONDS", json.load(open("metrics/train/fashion.json"))["seconds"])
"""


def main(rounds: int, parts: list[str]) -> None:
    """Measure in turns and keep what came of it."""
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    content["machine"] = machine(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as place:
        here = Path(place, "clone")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(here)], check=True)
        (here / ".venv").symlink_to(ROOT / ".venv")
        (here / ".state").mkdir()
        (here / ".state/serving").symlink_to(ROOT / ".state/serving")
        names = environment(here) | {"ENGINEWORKS_CRON": "0 0 1 1 *"}
        names.pop("ENGINEWORKS_MIRROR"), names.pop("ENGINEWORKS_MINIATURE")
        try:
            print("warming up: data fetched, servers started", flush=True)
            engineworks(here, names, "run")
            commands = shell(here, names, f"python - <<'END'\n{COMMANDS}\nEND").splitlines()[1:]  # the data are there
            names["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{names['ENGINEWORKS_MLFLOW_PORT']}"  # as a run sets it
            for part in parts:
                content[part] = PARTS[part](here, names, rounds, commands)
                RESULTS.write_text(json.dumps(content, indent=1) + "\n")
                print(part, json.dumps(content[part], indent=1), flush=True)
        finally:
            engineworks(here, names, "down")


def script(here: Path, names: dict[str, str], rounds: int, commands: list[str]) -> dict[str, Any]:
    """Return the seconds of runs and of scripts, and the share of a run that the script does without."""
    rows = []
    for _ in range(rounds):
        forget(here)
        whole, deploy = timed_run(here, names)
        forget(here)
        rows.append({"run_s": round(whole, 1), "deploy_s": deploy, "script_s": round(bare(here, names, commands), 1)})
        print(rows[-1], flush=True)
    shares = [(row["run_s"] - row["deploy_s"] - row["script_s"]) / row["run_s"] for row in rows]
    return {"stages": len(commands) + 1, "rows": rows, "share_of_run": summary(shares, 4)}


def fresh(here: Path, names: dict[str, str], rounds: int, commands: list[str]) -> dict[str, Any]:
    """Return what a stage takes that is fresh, and the whole of a run in which all are."""
    engineworks(here, names, "run")
    stages, wholes = len(commands) + 1, []
    each = []
    for _ in range(rounds):
        wholes.append(timed_run(here, names)[0])
        run = newest(names, "run")
        found = ask(names, "task_runs", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        tasks = [task for task in found if "@" in task["name"]]
        assert len(tasks) == stages, [task["name"] for task in tasks]
        begun, ended = (f(moment(task[key]) for task in tasks) for f, key in ((min, "start_time"), (max, "end_time")))
        each.append((ended - begun) / stages)
    return {"stages": stages, "s_per_stage": summary(each, 3), "whole_run_s": summary(wholes, 1)}


def mirrored(here: Path, names: dict[str, str], *_: Any) -> dict[str, Any]:
    """Return the milliseconds a value of a training's curves in MLflow."""
    said = shell(here, names, f"python -W ignore - <<'END'\n{MIRROR}\nEND")
    return {"ms_per_value": summary([float(line.split()[1]) for line in said.splitlines() if "MS" in line][1:], 4)}


def trained(here: Path, names: dict[str, str], rounds: int, commands: list[str]) -> dict[str, Any]:
    """Return the speed of a training that MLflow follows over that of one it does not."""
    command = next(command for command in commands if " train " in command)
    rows = []
    for turn in range(rounds + 2):
        ways = ("on", "off") if turn % 2 else ("off", "on")
        rows.append({way: training(here, names, way, command) for way in ways})
        print(rows[-1], flush=True)
    return {"seconds": rows, "on_over_off": summary([row["off"] / row["on"] for row in rows], 4)}


PARTS = {"script": script, "fresh": fresh, "mirror": mirrored, "training": trained}


def summary(values: list[float], digits: int) -> dict[str, Any]:
    """Return n, median and range."""
    least, most = (round(f(values), digits) for f in (min, max))
    return {"n": len(values), "median": round(median(values), digits), "range": [least, most]}


def engineworks(here: Path, names: dict[str, str], command: str) -> None:
    """Run a command of ours in the clone."""
    shell(here, names, f"python -m flows.cli {command}")


def shell(here: Path, names: dict[str, str], line: str) -> str:
    """Run a shell line in the clone; return what it said."""
    done = subprocess.run(["bash", "-ec", line], cwd=here, env=names, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{line}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def forget(here: Path) -> None:
    """Remove all that stages made, and what DVC knows of it; the fetched data stay."""
    for name in MADE:
        path = here / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def timed_run(here: Path, names: dict[str, str]) -> tuple[float, float]:
    """Return the seconds of a run and of the deploy within it."""
    begun = time.monotonic()
    engineworks(here, names, "run")
    return time.monotonic() - begun, round(float(newest(names, "deploy")["total_run_time"]), 1)


def newest(names: dict[str, str], flow: str) -> dict[str, Any]:
    """Return the run of a flow that began last."""
    wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC", "limit": 9}
    return next(run for run in ask(names, "flow_runs", wanted) if run["start_time"])


def ask(names: dict[str, str], kind: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask the clone's Prefect."""
    address = f"http://127.0.0.1:{names['ENGINEWORKS_PREFECT_PORT']}/api/{kind}/filter"
    head = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, json.dumps(wanted).encode(), head)) as answer:
        found: list[dict[str, Any]] = json.load(answer)
        return found


def moment(text: str) -> float:
    """Read a time of Prefect's as seconds."""
    return datetime.fromisoformat(text).timestamp()


def bare(here: Path, names: dict[str, str], commands: list[str]) -> float:
    """Return the seconds of the stages' commands, one after the other."""
    for name in ("models", "metrics/train", "metrics/evaluate", "data/prepare", "data/augment"):
        (here / name).mkdir(parents=True, exist_ok=True)
    for command in commands:
        for word in command.split():
            if word.startswith(("data/", "models/", "metrics/")):
                (here / word).parent.mkdir(parents=True, exist_ok=True)
    script = here / "stages.sh"
    script.write_text("\n".join(["set -e", *commands]) + "\n")
    begun = time.monotonic()
    shell(here, names, f"sh {script.name}")
    return time.monotonic() - begun


def training(here: Path, names: dict[str, str], way: str, command: str) -> float:
    """Return the seconds of a training, followed by MLflow or not."""
    (here / "follow.py").write_text(TRAINING)
    said = shell(here, names | {"PYTHONPATH": str(here)}, f"python -W ignore follow.py {way} '{command}'")
    return float(said.partition("SECONDS")[2])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    main(**vars(parser.parse_args()))
