"""Is the target reached whatever the seed? The whole path once per seed, in a fresh clone, to the served accuracy.

    python benchmarks/seeds.py [SEED ...]

Writes benchmarks/results/seeds.json: per seed the epochs and seconds to target, validation, served test accuracy with
its interval, FP32 and INT8 side by side, wall time and orchestration. The first seed is a cold run, packages and all.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PORTS = {"PREFECT": 4300, "MLFLOW": 5300, "HTTP": 8300, "GRPC": 8301, "METRICS": 8302, "TRITON": 8310}
INHERITED = ("PREFECT_", "MLFLOW_", "DVC_")


def main(seeds: list[int]) -> None:
    """Run every seed and write the results."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}
    environment |= {f"ENGINEWORKS_{name}_PORT": str(port) for name, port in PORTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        rows = []
        try:
            for seed in seeds:
                rows.append(one(clone, seed, environment))
                print(json.dumps(rows[-1]), flush=True)
        finally:
            subprocess.run(["make", "down"], cwd=clone, env=environment, check=False)
        machine = json.loads((clone / "models/measure/fashion.json").read_text())["machine"]
    served = [row["served_accuracy"] for row in rows]
    summary = {"seeds": len(rows), "at_least_0.90": sum(accuracy >= 0.90 for accuracy in served)}
    results = {"machine": machine, "summary": summary, "rows": rows}
    (ROOT / "benchmarks/results/seeds.json").write_text(json.dumps(results, indent=2) + "\n")


def one(clone: Path, seed: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run the whole path with one seed; return its figures."""
    params = clone / "params.yaml"
    text = re.sub(r"seed: \d+", f"seed: {seed}", params.read_text())
    params.write_text(re.sub(r"max_champion_drop: [\d.]+", "max_champion_drop: 1.0", text))  # seeds are no rivals
    started = time.monotonic()
    done = subprocess.run(
        ["make", "run"], cwd=clone, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    figures = re.search(r"(\d+) s in all, of which orchestration (\d+) s", done.stdout)
    assert figures is not None, done.stdout
    train, receipt, select = (
        json.loads((clone / path).read_text())
        for path in ("metrics/train/fashion.json", ".state/triton/live/fashion.json", "models/select/fashion.json")
    )
    engines = {row["engine"]: row for row in select["rows"] if "accuracy" in row}
    return {
        "seed": seed,
        "reached": train["reached"],
        "epochs": train["epochs"],
        "seconds_to_target": train["seconds_to_target"],
        "validation": round(train["value"], 4),
        "served_accuracy": receipt["served_accuracy"],
        "served_low": round(receipt["low"], 4),
        "served_high": round(receipt["high"], 4),
        "n": receipt["n"],
        "engine": receipt["engine"],
        "wall_s": round(time.monotonic() - started),  # the first one installs every package, too
        "run_s": int(figures[1]),
        "orchestration_s": int(figures[2]),
        "engines": {
            name: {key: row[key] for key in ("accuracy", "p50_ms", "p99_ms", "images_per_s")}
            for name, row in engines.items()
        },
    }


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1, 2, 3, 4, 5])
