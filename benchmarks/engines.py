"""How fast is each engine, and how near the CPU's limit? Engines, threads and batches take turns within one process.

    python benchmarks/engines.py [ROUNDS] [--checkout FOLDER]

First a ResNet-18 at 224x224, then the trained network of FOLDER. INT8 files come from the product's own quantiser, in
both dialects, and each runs on both runtimes. Needs OpenVINO. Writes benchmarks/results/engines.json.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.resnet import resnet18  # noqa: E402
from benchmarks.ways import EAGER, Predict, files, torch_ways  # noqa: E402
from tasks import export, quantize, trained  # noqa: E402
from tasks.measure import machine, seconds  # noqa: E402
from tasks.workload import part  # noqa: E402

THREADS, SIDE = (1, 2), 224
GEMM, PAUSE_S, WIDTHS = 2048, 0.02, (9, 9, 10, 8, 9)
METHOD = (
    f"Peak: the fastest of 3 products of two {GEMM}x{GEMM} matrices, torch.mm for FP32 and torch._int_mm for INT8, "
    "median over the rounds. Bound: INT8 peak / (operations of the network / eager's p50): the ratio of an engine that "
    "runs every layer at that peak. Ratio: median over the rounds of eager's median / the engine's in the same round. "
    "Differences of logits: relative to the largest one and to the RMS of eager's."
)


def main(rounds: int, checkout: Path) -> None:
    """Measure both networks, write the results and print them."""
    torch.manual_seed(0)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        resnet = measured_resnet(Path(folder), rounds)
    results = {"machine": machine(max(THREADS)), "n": rounds, "method": METHOD, "resnet18": resnet}
    if (checkout / "models/train/fashion").exists():
        results["fashion"] = measured_fashion(checkout, rounds)
    results["load_before_and_after"] = [*load, os.getloadavg()[0]]
    (ROOT / "benchmarks/results/engines.json").write_text(json.dumps(results, indent=2) + "\n")
    show(results)


def measured_resnet(folder: Path, rounds: int) -> dict[str, Any]:
    """Export, quantise and time the ResNet-18 at batch 1 and 8; set the best INT8 beside the bound."""
    network = resnet18()
    images = ((np.random.default_rng(0).random((40, 3, SIDE, SIDE)) - 0.45) / 0.225).astype(np.float32)
    (folder / "fp32.onnx").write_bytes(export.convert(network, images[:2]).SerializeToString())
    calibration = [images[start : start + 8] for start in range(0, 32, 8)]
    for dialect in quantize.DIALECTS:
        quantize.to_int8(folder / "fp32.onnx", folder / f"int8.{dialect}.onnx", calibration, dialect)
    ways = {threads: torch_ways(network) | files(folder, threads) for threads in THREADS}
    rows, peaks = take_turns(ways, {1: images[32:33], 8: images[32:40]}, rounds, 3)
    return {"rows": rows, "bounds": bounds(rows, peaks, operations(network))}


def measured_fashion(checkout: Path, rounds: int) -> dict[str, Any]:
    """Time the trained network and its files; count how often the runtimes give the same label, and the right one."""
    prepare = checkout / "data/prepare/fashion"
    spec = json.loads((prepare / "spec.json").read_text())
    batches = list(part(spec["workload"], "data").arrays(prepare, "test", spec, 256))
    x, y = (np.concatenate(each) for each in zip(*batches, strict=True))
    network = trained.network(checkout / "models/train/fashion", spec)
    folder = checkout / "models/quantize/fashion"
    ways = {threads: {EAGER: trained.predictor(network)} | files(folder, threads) for threads in THREADS}
    rows, _ = take_turns(ways, {1: x[:1], 64: x[:64]}, rounds, 20)
    labels = {
        name: np.concatenate([predict(x[start : start + 250]).argmax(1) for start in range(0, len(x), 250)])
        for name, predict in ways[max(THREADS)].items()
    }
    accuracy = {name: float((mine == y).mean()) for name, mine in labels.items()}
    pairs = {name: name.replace("ONNX Runtime", "OpenVINO") for name in labels if name.startswith("ONNX Runtime")}
    agreement = {
        name.removeprefix("ONNX Runtime "): float((labels[name] == labels[pairs[name]]).mean()) for name in pairs
    }
    return {"rows": rows, "test_images": len(y), "accuracy": accuracy, "runtimes_agree": agreement}


def take_turns(
    ways: dict[int, dict[str, Predict]], inputs: dict[int, Any], rounds: int, calls: int
) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    """Time every way in every round; return the rows, and per thread number the GEMM peaks (FP32, INT8)."""
    times: dict[Any, list[list[float]]] = defaultdict(list)
    peaks: dict[int, list[Any]] = defaultdict(list)
    for turn in range(rounds + 1):  # the first one warms up: torch compiles in it
        for threads, named in ways.items():
            torch.set_num_threads(threads)
            peaks[threads].append(gemm_peaks())
            for name, predict in named.items():
                for batch, x in inputs.items():
                    time.sleep(PAUSE_S)
                    predict(x)
                    times[threads, batch, name].append([seconds(predict, x) for _ in range(calls)])
        print(f"round {turn} of {rounds}", flush=True)
    rows = [
        row(key, each[1:], times[*key[:2], EAGER][1:])
        for key, each in sorted(times.items(), key=lambda item: item[0][:2])
    ]
    for each in rows:
        x, named = inputs[each["batch"]], ways[each["threads"]]
        each |= difference(named[each["name"]](x), named[EAGER](x))
    return rows, {threads: np.median(each[1:], axis=0) for threads, each in peaks.items()}


def row(key: tuple[int, int, str], times: list[list[float]], eager: list[list[float]]) -> dict[str, Any]:
    """Return one line of the table."""
    p50, p90 = (round(float(value) * 1e3, 3) for value in np.percentile(times, [50, 90]))
    ratio = float(np.median(np.median(eager, axis=1) / np.median(times, axis=1)))
    threads, batch, name = key
    facts = {"threads": threads, "batch": batch, "name": name, "calls": np.size(times), "p50_ms": p50, "p90_ms": p90}
    return facts | {"images_per_s": round(batch * 1e3 / p50, 1), "ratio": round(ratio, 2)}


def difference(mine: Any, reference: Any) -> dict[str, float]:
    """Return how far logits lie from eager torch's, relative to the largest one and to their RMS."""
    gap = mine - reference
    largest, rms = np.abs(gap).max() / np.abs(reference).max(), np.sqrt((gap**2).mean() / (reference**2).mean())
    return {"max_difference": float(f"{largest:.2g}"), "rms_difference": float(f"{rms:.2g}")}


def gemm_peaks() -> list[float]:
    """Return the operations per second of a large matrix product, FP32 and INT8."""
    floats = torch.randn(2, GEMM, GEMM)
    integers = (floats * 30).clamp(-127, 127).to(torch.int8)
    rates = []
    for multiply, pair in ((torch.mm, floats), (torch._int_mm, integers)):
        rates.append(2 * GEMM**3 / min(seconds(lambda both, product=multiply: product(*both), pair) for _ in range(3)))
    return rates


def operations(network: Any) -> int:
    """Count the additions and multiplications one image takes."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, SIDE, SIDE))
    return int(counter.get_total_flops())


def bounds(rows: list[dict[str, Any]], peaks: dict[int, Any], each_image: int) -> list[dict[str, Any]]:
    """Set the fastest INT8 beside the limit, for each number of threads and batch."""
    found = []
    for eager in (row for row in rows if row["name"] == EAGER):
        alike = [row for row in rows if all(row[key] == eager[key] for key in ("threads", "batch"))]
        best = max((row for row in alike if "INT8" in row["name"]), key=lambda row: row["ratio"])
        fp32, int8 = (round(float(peak) / 1e9, 1) for peak in peaks[eager["threads"]])
        rates = [round(each_image * row["images_per_s"] / 1e9, 1) for row in (eager, best)]
        facts = {"threads": eager["threads"], "batch": eager["batch"], "fp32_peak_gops": fp32, "int8_peak_gops": int8}
        facts |= {"eager_gops": rates[0], "best_int8": best["name"], "best_int8_gops": rates[1]}
        found.append(
            facts
            | {"bound": round(int8 / rates[0], 2), "ratio": best["ratio"], "share_of_peak": round(rates[1] / int8, 2)}
        )
    return found


def show(results: dict[str, Any]) -> None:
    """Print the tables, 80 columns wide at most."""
    keys = ("p50_ms", "p90_ms", "images_per_s", "ratio", "rms_difference")
    for network in [name for name in ("resnet18", "fashion") if name in results]:
        for (threads, batch), rows in itertools.groupby(results[network]["rows"], itemgetter("threads", "batch")):
            heading = f"{network}, {threads} thread(s), batch {batch}"
            print(f"\n{heading:<32}{'p50 ms':>9}{'p90 ms':>9}{'images/s':>10}{'ratio':>8}{'logits':>9}")
            for each in rows:
                print(f"{each['name']:<32}" + "".join(f"{each[key]:>{w}}" for key, w in zip(keys, WIDTHS, strict=True)))
    print("\nlogits: RMS of the difference from eager, relative; ratio: to eager, same round\n")
    for bound in results["resnet18"]["bounds"]:
        print("{threads} thread(s), batch {batch}: INT8 {ratio}x eager, bound {bound}x ({best_int8})".format(**bound))
    print(json.dumps({key: value for key, value in results.get("fashion", {}).items() if key != "rows"}, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=15)
    parser.add_argument("--checkout", type=Path, default=Path())
    chosen = parser.parse_args()
    main(chosen.rounds, chosen.checkout)
