"""The accuracy budget: what each step from the trained network to the answers served cost, and which step spent it."""

from typing import Any


def table(evaluated: dict[str, Any], chosen: str | None, served: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the rungs, each with the accuracy, its 95 % interval, n, and what it changed on the very same samples.

    FP32, the same checkpoint under autocast, the ONNX files, the chosen engine, and what the server answered (`served`
    holds the same members as a row of `evaluated`).
    """
    rows = evaluated["rows"]
    names = [name for name, row in rows.items() if row["spent_by"] != "build" or name == chosen]
    rungs = [rung(name, rows[name]) for name in names]
    if served:
        rungs.append(rung("served", {"from": chosen, "spent_by": "package, server", **served}))
    return rungs


def rung(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return one line of the budget."""
    kept = ("from", "spent_by", "accuracy", "low", "high", "n", "delta", "delta_low", "delta_high", "gained", "lost")
    return {"step": name, **{key: row[key] for key in kept}}


def lines(rungs: list[dict[str, Any]]) -> list[str]:
    """Return the budget as text, 78 columns: points are percentage points."""
    head = f"{'step':<22}{'accuracy':>9}{'points':>8}{'95 % interval':>18}  spent by"
    return [head, *(line(each) for each in rungs)]


def line(each: dict[str, Any]) -> str:
    """Return one line of the text."""
    start = f"{each['step']:<22}{each['accuracy']:>9.4f}"
    if each["from"] is None:
        return f"{start}{'':>26}  n={each['n']:,}"
    interval = f"{100 * each['delta_low']:+.2f} to {100 * each['delta_high']:+.2f}"
    return f"{start}{100 * each['delta']:>+8.2f}{interval:>18}  {each['spent_by']}"
