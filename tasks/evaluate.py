"""evaluate: the accuracy of every step from the trained network to the engines, on the official test set."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tasks import atomic, engines, target, trained
from tasks.interval import paired, wilson
from tasks.workload import part

Predict = Callable[[Any], Any]
THREADS = 2


def evaluate(
    workload: str,
    backends: list[str],
    prepare: Path,
    train: Path,
    quantize: Path,
    build: Path,
    out: Path,
    answers: Path,
    *,
    batch_size: Annotated[int, Field(ge=1, le=65_536)],
) -> None:
    """Leave in `out` a row per step: the original network, under autocast, each ONNX file, each engine that runs here.

    A row has accuracy with its 95 % interval and n, per class, agreement with the original, and what it gained and lost
    against the step it comes `from`. What can't run here is listed with the reason. `answers` keeps the labels
    themselves, uint16 [n] by row, and the truth; and `confidence/<row>`, float32 [n].
    """
    spec = json.loads((prepare / "spec.json").read_text())
    scoring = part(workload, "score")
    batches = list(part(workload, "data").arrays(prepare, "test", spec, batch_size))
    truth = np.concatenate([y for _, y in batches])
    rows: dict[str, Any] = {}
    guesses: dict[str, Any] = {}
    confidences: dict[str, Any] = {}
    reference = ""
    for name, origin, spender, predict in steps(spec, train, quantize, build, backends):
        reference = reference or name
        if isinstance(predict, str):
            rows[name] = {"from": origin, "spent_by": spender, "not_measured": predict}
            continue
        count, guesses[name], confidences[name] = scoring.score(predict, batches, spec["classes"])
        rows[name] = {
            "from": origin,
            "spent_by": spender,
            **row(count, guesses[name], guesses[reference], rows.get(reference, count)["per_class"]),
            **paired(guesses[name] == truth, guesses[origin or name] == truth),
        }
        print(f"{name}: {rows[name]['accuracy']:.4f}", flush=True)
    content = {"metric": scoring.METRIC, "n": len(truth), "reference": reference}
    content["int8_arithmetic"] = target.int8_arithmetic(target.cpu())
    keep(answers, {**guesses, "truth": truth}, confidences)
    atomic.write_json(out, content | {"rows": rows})
    print(f"{reference} {rows[reference]['accuracy']:.4f}, and {len(rows) - 1} steps from it, on n={len(truth):,}")


def steps(
    spec: dict[str, Any], train: Path, quantize: Path, build: Path, backends: list[str]
) -> Iterator[tuple[str, str | None, str, Predict | str]]:
    """Yield each step's name, the one it comes from, who made it so, and how to run it, or why it can't be run here."""
    reference, predict = trained.original(train, spec)
    yield reference, None, "train", predict
    if not (train / trained.IMPORTED).exists():
        yield "torch-autocast", reference, "mixed precision", trained.autocast(train, spec)
    files = json.loads((quantize / "quantize.json").read_text())["files"]
    for precision, dialects in files.items():
        for file in dict.fromkeys(dialects.values()):
            origin, spender = (reference, "export") if precision == "fp32" else ("onnx-fp32", f"quantize {precision}")
            known = origin if origin == reference or "fp32" in files else reference
            yield of(file), known, spender, trained.session(quantize / file)
    for engine in engines.read(build, backends):
        yield engine.name, of(engine.facts["onnx"]["file"]), "build", engine.missing or engine.load(THREADS)


def of(file: str) -> str:
    """Name the step of an ONNX file: `int8.cpu.onnx` -> `onnx-int8.cpu`."""
    return f"onnx-{Path(file).stem}"


def row(count: dict[str, Any], guess: Any, reference: Any, per_class: dict[str, float]) -> dict[str, Any]:
    """Return one line of the table; `per_class` is the reference's."""
    low, high = wilson(count["correct"], count["n"])
    drops = {name: round(per_class[name] - value, 4) for name, value in count["per_class"].items()}
    worst = max(drops, key=lambda name: drops[name])
    return {
        "accuracy": round(count["correct"] / count["n"], 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "n": count["n"],
        "agreement": round(float((guess == reference).mean()), 6),
        "per_class": count["per_class"],
        "worst_class": {"class": worst, "drop": drops[worst]},
    }


def keep(path: Path, labels: dict[str, Any], confidences: dict[str, Any]) -> None:
    """Write the answers of every row, and how sure it was of them."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.partial")
    tensors = {name: np.asarray(values, np.uint16) for name, values in labels.items()}
    tensors |= {f"confidence/{name}": np.asarray(values, np.float32) for name, values in confidences.items()}
    save_file(tensors, aside)
    aside.rename(path)


def foreign(out: Path) -> str | None:
    """Say that INT8 was judged by another arithmetic than this machine's; None where it counts here."""
    judged, here = json.loads(out.read_text()).get("int8_arithmetic", "unknown"), target.int8_arithmetic(target.cpu())
    return None if judged == here else f"judged with {judged} INT8 arithmetic, this machine's is {here}"
