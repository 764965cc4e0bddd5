"""What do Prefect, DVC and MLflow cost beside the stages themselves?

    python benchmarks/orchestration.py [ROUNDS]

In a clone of this checkout: every stage of fashion run by `engineworks run`, its servers up, and the same commands one
after the other in a shell script without any of them, in turns, nothing cached. The deploy is left out: the script has
none. Then a run in which all is fresh, per stage; what mirroring a training's curves to MLflow takes per value; and the
training beside that mirroring and without it, in turns. Writes benchmarks/results/orchestration.json.
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
from pathlib import Path
from statistics import median

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
run = open_live_run("orchestration", "benchmark")
mirror(Path("warm.csv"), run, 0)
for turn in range(5):
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


def main(rounds: int) -> None:
    """Measure in turns and write what came of it."""
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
            rows = []
            for _ in range(rounds):
                forget(here)
                whole, deploy = timed_run(here, names)
                forget(here)
                script = bare(here, names, commands)
                rows.append({"run_s": round(whole, 1), "deploy_s": round(deploy, 1), "script_s": round(script, 1)})
                print(rows[-1], flush=True)
            engineworks(here, names, "run")
            cached = [timed_run(here, names) for _ in range(rounds)]
            said = shell(here, names, f"python -W ignore - <<'END'\n{MIRROR}\nEND")
            mirrors = [float(line.split()[1]) for line in said.splitlines() if line.startswith("MS")]
            train = next(command for command in commands if " train " in command)
            trained = [{way: training(here, names, way, train) for way in ("on", "off")} for _ in range(rounds + 2)]
        finally:
            engineworks(here, names, "down")
    write(rows, cached, len(commands) + 1, mirrors, trained)


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
    whole = time.monotonic() - begun
    address = f"http://127.0.0.1:{names['ENGINEWORKS_PREFECT_PORT']}/api/flow_runs/filter"
    wanted = {"flows": {"name": {"any_": ["deploy"]}}, "sort": "START_TIME_DESC", "limit": 1}
    head = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, json.dumps(wanted).encode(), head)) as answer:
        return whole, float(json.load(answer)[0]["total_run_time"])


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


def write(
    rows: list[dict[str, float]],
    cached: list[tuple[float, float]],
    stages: int,
    mirrors: list[float],
    trained: list[dict[str, float]],
) -> None:
    """Keep the figures."""
    shares = [(row["run_s"] - row["deploy_s"] - row["script_s"]) / row["run_s"] for row in rows]
    ratios = [each["off"] / each["on"] for each in trained]
    fresh = [(whole - deploy) / stages for whole, deploy in cached]
    content = {
        "machine": machine(os.cpu_count() or 1),
        "n": len(rows),
        "stages": stages,
        "rows": rows,
        "share_of_run": {"median": round(median(shares), 4), "range": [round(f(shares), 4) for f in (min, max)]},
        "fresh_run_s_per_stage": {"median": round(median(fresh), 3), "range": [round(f(fresh), 3) for f in (min, max)]},
        "mirror_ms_per_value": {"n": len(mirrors), "median": round(median(mirrors), 4), "max": round(max(mirrors), 4)},
        "training_with_mlflow": {"n": len(ratios), "median": round(median(ratios), 4), "least": round(min(ratios), 4)},
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    main(**vars(parser.parse_args()))
