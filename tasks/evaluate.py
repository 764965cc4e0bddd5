"""evaluate: the accuracy of every engine on the official test set; what any machine would get."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks import atomic, engines, trained
from tasks.interval import wilson
from tasks.workload import part


def evaluate(
    workload: str,
    backends: list[str],
    prepare: Path,
    train: Path,
    build: Path,
    out: Path,
    *,
    batch_size: Annotated[int, Field(ge=1, le=65_536)],
) -> None:
    """Leave in `out`, per engine, accuracy with its 95 % interval and n, per class, and agreement with the original.

    An engine that can't run here is listed with the reason.
    """
    spec = json.loads((prepare / "spec.json").read_text())
    scoring = part(workload, "score")
    batches = list(part(workload, "data").arrays(prepare, "test", spec, batch_size))
    name, predict = trained.original(workload, train, spec)
    count, reference = scoring.score(predict, batches, spec["classes"])
    rows: dict[str, Any] = {name: row(count, reference, reference)}
    for engine in engines.read(build, backends):
        if engine.missing:
            rows[engine.name] = {"not_measured": engine.missing}
            continue
        count, guess = scoring.score(engine.load(threads=2), batches, spec["classes"])
        rows[engine.name] = row(count, guess, reference)
        print(f"{engine.name}: {rows[engine.name]['accuracy']:.4f}", flush=True)
    atomic.write_json(out, {"metric": scoring.METRIC, "n": count["n"], "reference": name, "rows": rows})
    print(f"{name} {rows[name]['accuracy']:.4f}, and {len(rows) - 1} engines, on n={count['n']:,}")


def row(count: dict[str, Any], guess: Any, reference: Any) -> dict[str, Any]:
    """Return one line of the table."""
    low, high = wilson(count["correct"], count["n"])
    return {
        "accuracy": round(count["correct"] / count["n"], 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "n": count["n"],
        "agreement": round(float((guess == reference).mean()), 6),
        "per_class": count["per_class"],
    }
