"""select: of the engines that pass every rule the best by the objective, and the reason of every other."""

import json
from math import comb
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks import atomic, budget, engines, pictures

PRECISIONS = ("fp32", "fp16", "int8")  # highest first
LIKELY = 0.05  # a difference that chance makes this often is noise
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]


def select(
    backends: list[str],
    evaluate: Path,
    measure: Path,
    build: Path,
    out: Path,
    picture: Path,
    *,
    objective: Literal["latency", "throughput"],
    max_accuracy_drop: Share,
    max_class_drop: Share,
    min_agreement: Share,
    max_p99_ms: Positive,
    max_size_mb: Positive,
) -> None:
    """Leave in `out` a row per engine with its verdict, `chosen` (or null), and the accuracy budget (drawn, too).

    Drops and agreement are against the original network in FP32, on the same test set. Latency means the lowest p50 at
    batch 1, throughput the most samples/s. Where the best is not faster beyond noise, the higher precision is chosen.
    """
    evaluated, measured = json.loads(evaluate.read_text()), json.loads(measure.read_text())
    reference, timings = evaluated["reference"], measured["rows"]
    rows = [{"engine": reference, "size_bytes": None, **evaluated["rows"][reference], **timings[reference]}]
    bounds = {
        "max_accuracy_drop": max_accuracy_drop,
        "max_class_drop": max_class_drop,
        "min_agreement": min_agreement,
        "max_p99_ms": max_p99_ms,
        "max_size_mb": max_size_mb,
    }
    for engine in engines.read(build, backends):
        row = {"engine": engine.name, "precision": engine.facts["precision"], "size_bytes": engine.facts["size_bytes"]}
        row |= evaluated["rows"][engine.name] | timings[engine.name]
        rows.append(row | {"refusals": refusals(row, rows[0]["accuracy"], engine.unserved, bounds)})
    passed = [row for row in rows[1:] if not row["refusals"]]
    chosen, why = choice(passed, objective)
    for row in rows:
        row["verdict"] = verdict(row, rows[0], chosen, objective)
        for detail in ("per_class", "rounds", "refusals"):
            row.pop(detail, None)
    name = chosen["engine"] if chosen else None
    table = budget.table(evaluated, name)
    content = {"chosen": name, "why": why, "objective": objective, "bounds": bounds, "rows": rows, "budget": table}
    picture.parent.mkdir(parents=True, exist_ok=True)
    pictures.budget(picture, table)
    atomic.write_json(out, content)
    print(f"chosen: {name or 'none'}{f', {why}' if why else ''}")


def refusals(row: dict[str, Any], reference: float, unserved: str | None, bounds: dict[str, float]) -> list[str]:
    """Say which rules an engine breaks: rule, value, bound, n."""
    if "not_measured" in row:
        return [f"built, not measured here: {row['not_measured']}"]
    worst, drop = row["worst_class"], round(reference - row["accuracy"], 6)  # 0.91 - 0.905 is more than 0.005 in floats
    values = {
        "max_accuracy_drop": (drop, f"accuracy drop {drop:.4f}"),
        "max_class_drop": (worst["drop"], f"drop of class '{worst['class']}' {worst['drop']:.4f}"),
        "min_agreement": (row["agreement"], f"agreement with FP32 {row['agreement']:.4f}"),
        "max_p99_ms": (row["p99_ms"], f"p99 {row['p99_ms']:.3f} ms"),
        "max_size_mb": (row["size_bytes"] / 1e6, f"size {row['size_bytes'] / 1e6:.3f} MB"),
    }
    reasons = [unserved] if unserved else []
    for rule, (value, said) in values.items():
        least = rule.startswith("min_")
        if value < bounds[rule] if least else value > bounds[rule]:
            n = f"n={row['calls']:,} calls" if rule == "max_p99_ms" else f"n={row['n']:,}"
            size = "" if rule == "max_size_mb" else f" ({n})"
            reasons.append(f"{said} {'under' if least else 'over'} {rule} {bounds[rule]:g}{size}")
    return reasons


def choice(passed: list[dict[str, Any]], objective: str) -> tuple[dict[str, Any] | None, str]:
    """Return the best engine, and why it is not the quickest where that is within noise of a higher precision."""
    if not passed:
        return None, ""
    quickest = max(passed, key=lambda row: merit(row, objective))
    rivals = [row for row in passed if row is quickest or within_noise(quickest, row, objective)]
    chosen = min(rivals, key=lambda row: (PRECISIONS.index(row["precision"]), -merit(row, objective)))
    if chosen["precision"] == quickest["precision"]:
        return quickest, ""
    return chosen, f"as {quickest['engine']} is within noise of it"


def merit(row: dict[str, Any], objective: str) -> float:
    """Return what the objective wants more of."""
    return float(-row["p50_ms"] if objective == "latency" else row["images_per_s"])


def within_noise(best: dict[str, Any], other: dict[str, Any], objective: str) -> bool:
    """Tell whether chance alone may have put `best` before `other`: the one-sided sign test over the rounds."""
    pairs = list(zip(best["rounds"][objective], other["rounds"][objective], strict=True))
    wins = sum(a < b if objective == "latency" else a > b for a, b in pairs)
    chance = sum(comb(len(pairs), k) for k in range(wins, len(pairs) + 1)) / 2 ** len(pairs)
    return chance > LIKELY


def verdict(row: dict[str, Any], reference: dict[str, Any], chosen: dict[str, Any] | None, objective: str) -> str:
    """Return the last column of the table."""
    if row is reference:
        return "reference"
    if row is chosen:
        return "chosen"
    if row["refusals"]:
        return "; ".join(row["refusals"])
    if chosen and merit(row, objective) > merit(chosen, objective):
        return "no faster, by noise"
    return {"latency": "slower", "throughput": "less throughput"}[objective]
