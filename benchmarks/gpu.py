"""What an NVIDIA GPU brings, part by part: training steps, engines, input, a whole training.

    python benchmarks/gpu.py PART... [--rounds N] [--only NETWORK] [--photographs FOLDER] [--checkout FOLDER]

steps: images a second of the training step in float32, float16 and bfloat16, batches on the GPU already.
engines: p50 and images a second of two networks, copies included, by ONNX Runtime on the CPU, torch on the GPU and
TensorRT for RTX, where this GPU can load its engines.
input: photographs a second that the loader decodes and augments, on the CPU and on the GPU (JPEGs of `--photographs`).
stage: the `train` stage with the knobs of `fashion`, on the prepared data of `--checkout`.

Ways take turns, round by round. Each part writes its own member of benchmarks/results/gpu.json.
"""

import argparse
import importlib.metadata
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_engines import engines  # noqa: E402
from benchmarks.gpu_steps import steps  # noqa: E402
from tasks import gpu, measure  # noqa: E402

RESULTS = ROOT / "benchmarks/results/gpu.json"
PACKAGES = ("torch", "pytorch-lightning", "nvidia-dali-cuda120", "onnxruntime", "tensorrt-rtx-cu13-libs")
CLOTHING = {
    "crop": {"area": [0.5, 1.0], "ratio": [0.75, 1.33]},
    "flip": {"probability": 0.5},
    "brightness": {"range": [0.7, 1.3], "probability": 0.5},
    "contrast": {"range": [0.7, 1.3], "probability": 0.5},
    "saturation": {"range": [0.6, 1.4], "probability": 0.5},
    "erasing": {"range": [0.1, 0.3], "probability": 0.25},
}


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=["steps", "engines", "input", "stage"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="networks of `steps`: those whose name has this in it")
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--checkout", type=Path, default=ROOT)
    given = parser.parse_args()
    if gpu.missing():
        raise SystemExit(f"benchmarks/gpu.py: {gpu.missing()}")
    for part in given.parts:
        found = {"steps": steps, "engines": engines, "input": loaders, "stage": stage}[part](given)
        keep(part, {"n": given.rounds, **found})


def keep(part: str, found: dict[str, Any]) -> None:
    """Write one part's results beside those of the others."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    installed = {name: [each.version for each in importlib.metadata.distributions(name=name)] for name in PACKAGES}
    if part == "steps":  # network by network, where `--only` says so
        found["rows"] = results.get(part, {}).get("rows", {}) | found["rows"]
    results |= {
        "hardware": {"gpu": gpu.first(), **measure.machine(torch.get_num_threads())},
        "versions": {name: versions[0] for name, versions in installed.items() if versions},
        part: found,
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps({part: found}, indent=1), flush=True)


def loaders(given: Any) -> dict[str, Any]:
    """Time the loader of `train` on photographs as they came and as training stores them."""
    from tasks import shards
    from tasks.modalities.image import source
    from tasks.problems.classification.data import loader

    spec = {"workload": "image/classification", "image_size": 224, "channels": 3, "classes": ["one"]}
    spec |= {"mean": [127.0] * 3, "std": [128.0] * 3, "shape": [3, 224, 224]}
    known: Any = {"mean": [127, 127, 127], "std": [128, 128, 128]}
    files = sorted(given.photographs.glob("*.jpg"))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for stored in (None, 288):
            folder = Path(name) / str(stored)
            folder.mkdir()
            input = source.Input(image_size=224, channels=3, normalisation=known, stored_edge=stored)
            samples = [data for file in files for data in source.training(file.read_bytes(), input)]
            shards.write(folder, "train", ((data, 0) for _ in range(6) for data in samples), 100_000)
            ways = {
                f"{device.upper()}, {threads} threads": loader(folder, "train", spec, 64, CLOTHING, 0, device, threads)
                for device in ("cpu", "gpu")
                for threads in (2, 8, 16)
            }
            title = "stored at 288" if stored else "as they came"
            found[title] = rates(ways, given.rounds)
            print(title, found[title], flush=True)
    return {"photographs": len(files), "batch": 64, "augmentation": CLOTHING, "rows": found}


def rates(ways: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Walk over every loader in every round, once before; batches end on the GPU."""
    taken: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        for name, batches in ways.items():
            torch.cuda.synchronize()
            start, images = time.perf_counter(), 0
            for x, _ in batches:
                images += len(x.cuda(non_blocking=True))
            torch.cuda.synchronize()
            if turn:
                taken[name].append(images / (time.perf_counter() - start))
    return {
        name: {"images_per_s": round(median(found)), "low": round(min(found)), "high": round(max(found))}
        for name, found in taken.items()
    }


def stage(given: Any) -> dict[str, Any]:
    """Run the `train` stage as `fashion` has it, seed by seed, in float16 and in float32."""
    import yaml

    from tasks.networks import small
    from tasks.train import train

    pipeline = yaml.safe_load((ROOT / "params.yaml").read_text())["pipelines"]["fashion"]
    knobs = pipeline["train"] | {"network": small.Knobs(**pipeline["train"]["network"])}
    found: dict[str, Any] = defaultdict(list)
    for seed in range(1, given.rounds + 1):
        for precision in ("16-mixed", "32-true"):
            with tempfile.TemporaryDirectory() as name:
                out = Path(name)
                paths = given.checkout / "data/prepare/fashion", given.checkout / "data/augment/fashion"
                places = out / "out", out / "curves", out / "metrics.json"
                train("image/classification", *paths, *places, **knobs | {"seed": seed, "precision": precision})
                found[precision].append(json.loads((out / "metrics.json").read_text()))
    return {"runs": found}


if __name__ == "__main__":
    main()
