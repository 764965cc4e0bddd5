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
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks import gpu, measure, networks  # noqa: E402

RESULTS = ROOT / "benchmarks/results/gpu.json"
PACKAGES = ("torch", "pytorch-lightning", "nvidia-dali-cuda120", "onnxruntime", "tensorrt-rtx-cu13-libs")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
STEPS = {  # network: its knobs, the shape of an image, the batch, steps before the clock starts, steps timed
    "small, batch 128": ({"name": "small", "width": 64}, (1, 28, 28), 128, 10, 60),
    "small, batch 2048": ({"name": "small", "width": 64}, (1, 28, 28), 2048, 5, 30),
    "efficientnet_lite0, batch 32": ({"name": "efficientnet_lite0"}, (3, 224, 224), 32, 5, 20),
    "efficientnet_lite0, batch 256": ({"name": "efficientnet_lite0"}, (3, 224, 224), 256, 3, 10),
}
KNOBS = {"learning_rate": 0.01, "weight_decay": 0.0001, "label_smoothing": 0.1, "schedule_epochs": 1} | {
    "pretrained": None
}
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
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


def steps(given: Any) -> dict[str, Any]:
    """Time the training step as `train` makes it: Lightning, the learner, the watch over its health."""
    torch.manual_seed(0)
    rows = {}
    for name, (knobs, shape, batch, before, timed) in STEPS.items():
        if given.only not in name:
            continue
        batches = [
            (torch.randn(batch, *shape, device="cuda"), torch.randint(0, 10, (batch,), device="cuda")) for _ in range(8)
        ]
        rates: dict[str, list[float]] = defaultdict(list)
        losses: dict[str, float] = {}
        for _ in range(given.rounds):
            for precision in PRECISIONS:
                seconds, losses[precision] = step(knobs, shape, batches, precision, before, timed)
                rates[precision].append(batch * timed / seconds)
                print(name, precision, rates[precision][-1], losses[precision], flush=True)
        rows[name] = {
            precision: {
                "n": len(found),
                "images_per_s": round(median(found)),
                "low": round(min(found)),
                "high": round(max(found)),
                "ratio": round(median(a / b for a, b in zip(found, rates["32-true"], strict=True)), 3),
                "last_loss": round(losses[precision], 4),
            }
            for precision, found in rates.items()
        }
        print(name, rows[name], flush=True)
    method = "batches on the GPU; 32-true: convolutions in TF32, as torch does by default; ratio to 32-true, same round"
    return {"method": method, "rows": rows}


def step(
    knobs: dict[str, Any], shape: tuple[int, ...], batches: list[Any], precision: str, before: int, timed: int
) -> tuple[float, float]:
    """Return the seconds of so many steps, and the last loss."""
    import pytorch_lightning as pl

    from tasks.health import Health
    from tasks.learner import Learner
    from tasks.problems.classification import loss

    class Clock(pl.Callback):
        seconds = 0.0

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step in (before, before + timed):
                torch.cuda.synchronize()
                self.seconds = time.perf_counter() - self.seconds

    torch.manual_seed(1)
    built = networks.build({"shape": shape, "classes": list("0123456789")}, knobs)
    learner = Learner(built.to(memory_format=torch.channels_last), loss, KNOBS, steps_per_epoch=before + timed)
    clock = Clock()
    endless = [batches[i % len(batches)] for i in range(before + timed)]
    callbacks = [Health(batches[0][0][:16].cpu()), clock]
    trainer = pl.Trainer(
        precision=precision, max_steps=before + timed, callbacks=callbacks, accelerator="gpu", devices=1, **QUIET
    )
    trainer.fit(learner, torch.utils.data.DataLoader(endless, batch_size=None))
    assert math.isfinite(float(learner.loss)) and clock.seconds > 0
    return clock.seconds, float(learner.loss)


def engines(given: Any) -> dict[str, Any]:
    """Time two networks at batch 1 and 32."""
    from benchmarks.resnet import resnet18

    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 64
    small = networks.build({"shape": [1, 28, 28], "classes": list("0123456789")}, {"name": "small", "width": 64}).eval()
    found, reasons = {}, {}
    for name, network, shape in (("small 28x28", small, (1, 28, 28)), ("ResNet-18 224x224", resnet18(), (3, 224, 224))):
        with tempfile.TemporaryDirectory() as folder:
            images = np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)
            ways, reasons[name] = every_way(network, images, Path(folder))
            found[name] = rows(ways, images, given.rounds)
        print(name, json.dumps(found[name], indent=1), flush=True)
    return {"method": "numpy to numpy, copies included; TF32 as each library does by default", "rows": found} | {
        "not_measured": reasons
    }


def every_way(network: Any, images: Any, folder: Path) -> tuple[dict[str, Callable[[Any], Any]], dict[str, str]]:
    """Return the ways to run a network, and why the others can't run."""
    from benchmarks.ways import gpu_ways, on_onnx_runtime
    from tasks import export
    from tasks.backends import tensorrt_rtx

    model = export.convert(network, images[:2])
    (folder / "fp32.onnx").write_bytes(model.SerializeToString())
    ways = {f"ONNX Runtime FP32, CPU, {n} thread(s)": on_onnx_runtime(folder / "fp32.onnx", n) for n in (1, 8)}
    ways |= {"torch eager FP32, GPU": eager(network)}
    ways |= {name: way for name, way in gpu_ways(network).items() if "compile" not in name}
    reasons = {}
    for precision in ("fp32", "fp16", "int8"):
        title, engine = f"TensorRT for RTX {precision.upper()}, GPU", folder / f"{precision}.rtx"
        try:
            source = converted(folder / "fp32.onnx", precision, images)
            tensorrt_rtx.build(source, engine, 32, tensorrt_rtx.Options(compute_capabilities=[]))
            ways[title] = tensorrt_rtx.load(engine, threads=1)
        except ValueError as error:
            reasons[title] = str(error)
            break  # another precision would not be loaded either
    return ways, reasons


def converted(source: Path, precision: str, images: Any) -> Path:
    """Write the network's form in a precision."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from tasks.quantize import to_int8

    out = source.with_name(f"{precision}.onnx")
    if precision == "fp16":
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), out)
    if precision == "int8":
        to_int8(source, out, [images[:32]], "tensorrt")
    return out


def eager(network: Any) -> Callable[[Any], Any]:
    """Return eager torch in float32 on the GPU."""
    import copy

    on_gpu = copy.deepcopy(network).cuda()

    @torch.inference_mode()
    def predict(x: Any) -> Any:
        return on_gpu(torch.from_numpy(x).cuda()).cpu().numpy()

    return predict


def rows(ways: dict[str, Callable[[Any], Any]], images: Any, rounds: int, calls: int = 20) -> list[dict[str, Any]]:
    """Time every way in every round; the first of ONNX Runtime is what logits are compared with."""
    times: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
    reference = {batch: next(iter(ways.values()))(images[:batch]) for batch in (1, 32)}
    apart = {}
    for (name, predict), batch in ((way, batch) for way in ways.items() for batch in (1, 32)):
        for _ in range(2 if "CPU" in name else 5):
            logits = predict(images[:batch])
        apart[batch, name] = float(np.abs(logits - reference[batch]).max() / np.abs(reference[batch]).max())
    for _ in range(rounds):
        for name, predict in ways.items():
            for batch in (1, 32):
                few = calls if "CPU" not in name else 1
                times[batch, name].append([measure.seconds(predict, images[:batch]) for _ in range(few)])
    first = next(name for name in ways if "eager FP32" in name)
    return [
        {
            "batch": batch,
            "way": name,
            "p50_ms": round(float(np.median(np.concatenate(found))) * 1e3, 4),
            "images_per_s": round(batch / float(np.median(np.concatenate(found)))),
            "ratio_to_eager_fp32": round(
                median(float(np.median(b) / np.median(a)) for a, b in zip(found, times[batch, first], strict=True)),
                2,
            ),
            "max_difference": float(f"{apart[batch, name]:.2g}"),
        }
        for (batch, name), found in sorted(times.items(), key=lambda item: item[0][0])
    ]


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
