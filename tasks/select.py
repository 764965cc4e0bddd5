"""select: of the engines that keep their accuracy the best by the objective, and the reason of every other."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks import atomic, engines


def select(
    backends: list[str],
    evaluate: Path,
    measure: Path,
    build: Path,
    out: Path,
    *,
    objective: Literal["latency", "throughput"],
    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)],
) -> None:
    """Leave the table in `out`: a row per engine with its verdict, and `chosen` (null where none passes).

    The drop is against the original network in FP32, on the same test set. Latency means the lowest p50 at batch 1.
    """
    evaluated = json.loads(evaluate.read_text())
    accuracies, reference = evaluated["rows"], evaluated["reference"]
    timings = json.loads(measure.read_text())["rows"]
    rows = [{"engine": reference, "size_bytes": None, **accuracies[reference], **timings[reference]}]
    for engine in engines.read(build, backends):
        row = {"engine": engine.name, "size_bytes": engine.facts["size_bytes"]}
        rows.append(row | accuracies[engine.name] | timings[engine.name])
    passed = [row for row in rows[1:] if not refusal(row, rows[0]["accuracy"], max_accuracy_drop)]
    chosen = max(passed, key=lambda row: merit(row, objective), default=None)
    for row in rows:
        row["verdict"] = verdict(row, rows[0], chosen, objective, max_accuracy_drop)
        row.pop("per_class", None)
    name = chosen["engine"] if chosen else None
    atomic.write_json(
        out, {"chosen": name, "objective": objective, "max_accuracy_drop": max_accuracy_drop, "rows": rows}
    )
    print(f"chosen: {name or 'none'}")


def refusal(row: dict[str, Any], reference: float, max_drop: float) -> str | None:
    """Say which rule an engine breaks: rule, value, bound, n."""
    if "not_measured" in row:
        return f"built, not measured here: {row['not_measured']}"
    drop = reference - row["accuracy"]
    if drop > max_drop:
        return f"accuracy drop {drop:.4f} over max_accuracy_drop {max_drop:.4f} (n={row['n']})"
    return None


def merit(row: dict[str, Any], objective: str) -> float:
    """Return what the objective wants more of."""
    return float(-row["p50_ms"] if objective == "latency" else row["images_per_s"])


def verdict(
    row: dict[str, Any], reference: dict[str, Any], chosen: dict[str, Any] | None, objective: str, max_drop: float
) -> str:
    """Return the last column of the table."""
    if row is reference:
        return "reference"
    if row is chosen:
        return "chosen"
    better = {"latency": "slower", "throughput": "less throughput"}[objective]
    return refusal(row, reference["accuracy"], max_drop) or better
