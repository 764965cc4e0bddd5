"""Bulk scoring on Ray: what does a second worker bring, and does memory grow with the number of files?

    python benchmarks/bulk.py [ROUNDS]

`engineworks score fashion FOLDER --ray ADDRESS` on a cluster of one and of two nodes, a core and so an engine each, on
this machine, over 10,000 and 100,000 files (PNG, from fashion's training images), in turns. The command starts for some
seconds, so the rate is that of the 90,000 files between the two sizes. Peaks of memory, sampled, are of the command
and of the largest engine (PSS: of a page that processes share, each has its part). The servers' way beside it, for
10,000. Wants a `make run` before. Writes benchmarks/results/bulk.json.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks.measure import machine  # noqa: E402

RESULTS = ROOT / "benchmarks/results/bulk.json"
IMAGES = ROOT / "data/fetch/fashion/train-images-idx3-ubyte"
SIZES, WORKERS = (10_000, 100_000), (1, 2)
STORE_BYTES = 200 * 2**20  # Ray's shared memory on each node
PERIOD_S = 0.5


def main(rounds: int) -> None:
    """Measure in turns, keeping the results after each."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folders = {size: write_files(Path(place, str(size)), size) for size in SIZES}
        for turn in range(1, rounds + 1):
            for workers in WORKERS:
                with cluster(workers) as address:
                    for size, folder in folders.items():
                        rows.append({"turn": turn, "workers": workers} | scored(folder, size, ["--ray", address]))
                        print(rows[-1], flush=True)
            rows.append({"turn": turn, "workers": "servers"} | scored(folders[SIZES[0]], SIZES[0], []))
            print(rows[-1], flush=True)
            write(rows)


def write_files(folder: Path, count: int) -> Path:
    """Write so many pictures, a thousand a folder."""
    pixels = np.frombuffer(IMAGES.read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number % len(pixels)]).save(path)
    return folder


@contextlib.contextmanager
def cluster(nodes: int) -> Any:
    """Run so many nodes of a core each; give their address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    found = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            found.add_node(**node)
        yield found.address
    finally:
        found.shutdown()


def scored(folder: Path, count: int, way: list[str]) -> dict[str, Any]:
    """Score a folder; return seconds and peaks of memory."""
    peaks = {"command": 0.0, "engine": 0.0}
    with tempfile.TemporaryDirectory() as place:
        out = Path(place, "answers.parquet")
        words = [str(ROOT / ".venv/bin/engineworks"), "score", "fashion", str(folder), "--out", str(out), *way]
        begun = time.monotonic()
        log = Path(place, "said.log")
        with log.open("w") as said:
            process = subprocess.Popen(words, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
            while process.poll() is None:
                look(process.pid, peaks)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PERIOD_S)
        seconds = time.monotonic() - begun
        if process.returncode or f"{count:,} rows, 0 of them errors" not in log.read_text():
            raise SystemExit(log.read_text()[-1500:])
    return {"files": count, "seconds": round(seconds, 1)} | {f"{k}_mb": round(v) for k, v in peaks.items()}


def look(driver: int, peaks: dict[str, float]) -> None:
    """Note how much memory the command and the largest engine hold now."""
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            name = (
                "command" if each.pid == driver else "engine" if "ray::MapWorker" in " ".join(each.cmdline()) else None
            )
            if name:
                peaks[name] = max(peaks[name], each.memory_full_info().pss / 2**20)


def write(rows: list[dict[str, Any]]) -> None:
    """Keep the figures."""
    seconds = {(row["turn"], row["workers"], row["files"]): row["seconds"] for row in rows}
    turns = range(1, max(row["turn"] for row in rows) + 1)
    few, many = SIZES
    rates = {w: [(many - few) / (seconds[t, w, many] - seconds[t, w, few]) for t in turns] for w in WORKERS}
    gain = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    memory = {
        f"{name}, {workers} workers": {
            f"{size}": median(r[f"{name}_mb"] for r in rows if (r["workers"], r["files"]) == (workers, size))
            for size in SIZES
        }
        for name in ("command", "engine")
        for workers in WORKERS
    }
    content = {
        "machine": machine(os.cpu_count() or 1),
        "n": len(turns),
        "files_per_s": {str(w): [round(each) for each in found] for w, found in rates.items()},
        "two_workers_over_one": {"median": round(median(gain), 2), "all": [round(each, 2) for each in gain]},
        "peak_mb_by_files": memory,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    main(**vars(parser.parse_args()))
