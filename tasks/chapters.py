"""The chapters of a run's report that tell what the stages left: data, augmentation, training, budget, engines."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks import page, pictures, rejects, shards
from tasks.page import Html

OPEN = 20  # rejected files that are shown unfolded


def data(prepare: Path, spec: dict[str, Any], accounts: dict[str, Any]) -> Html:
    """Return what was used, by split and class, and every rejected file with its reason."""
    classes = spec["classes"]
    splits = {name: np.bincount(list(shards.labels(prepare, name)), minlength=len(classes)) for name in spec["counts"]}
    rows = [
        (name, *(page.bar(int(counts[i]), int(counts.max())) for counts in splits.values()))
        for i, name in enumerate(classes)
    ]
    rows.append((page.tag("b", "all"), *(page.tag("b", f"{counts.sum():,}") for counts in splits.values())))
    used, rejected = sum(accounts["used"].values()), accounts["rejected"]
    words = f"{accounts['seen']:,} files seen = {used:,} used + {rejected:,} rejected. Samples by class and split:"
    parts = [page.sentence(words), page.table(("class", *splits), rows)]
    if rejected:
        table = rejects.table((prepare / "report.html").read_text())
        parts.append(
            page.folded(
                f"{rejected:,} rejected files", page.tag("div", Html(table), class_="rejected"), rejected <= OPEN
            )
        )
    return page.join(*parts)


def augmentation(folder: Path) -> Html:
    """Return the changes and every strip of them."""
    knobs = json.loads((folder / "augment.json").read_text())
    strips = [
        page.captioned(page.wide(page.picture(path.read_bytes(), shows(path))), shows(path), kind="strip")
        for path in sorted(folder.glob("*.png"))
    ]
    rows = [(name, setting(value)) for name, value in knobs.items()]
    table = page.table(("change", "setting"), rows, words=(0, 1)) if rows else page.sentence("No change is asked for.")
    return page.join(table, *strips)


def setting(value: Any) -> str:
    """Return a knob, or a group of them, as words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {setting(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " to ".join(setting(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def shows(strip: Path) -> str:
    """Say what a strip shows, from its name: `strip.png` all changes, `strip_flip.png` one."""
    change = strip.stem.removeprefix("strip").strip("_").replace("_", " ")
    return f"Samples, and variants of them: {change or 'all changes'}"


def training(curves: Path, verdict: dict[str, Any]) -> Html:
    """Return the curves with the target, and what the training came to."""
    with curves.open(newline="") as file:
        rows = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]

    def draw(out: Any) -> None:
        pictures.curves(out, rows, verdict["target"], verdict["metric"], verdict["n"])

    words = f"Validation {verdict['metric']} {verdict['value']:.4f}, {span(verdict)}. "
    words += f"Target {verdict['target']:g}, to be cleared by {cleared_by(verdict)}: "
    words += f"{'reached' if verdict['reached'] else 'not reached'}"
    words += (
        f" after {verdict['epochs']} epoch{'s' * (verdict['epochs'] > 1)}."
        if verdict["epochs"]
        else "; imported, not trained."
    )
    note = f"By epoch, on n={verdict['n']:,} validation samples; the band is the 95 % interval, dashed the target."
    chart = page.wide(Html(pictures.svg(draw, "training curves with the target")))
    return page.join(page.sentence(words), page.captioned(chart, note, kind="chart"))


def budget(rungs: list[dict[str, Any]]) -> Html:
    """Return what each step cost, drawn and in numbers."""
    rows = [
        (
            rung["step"],
            rung["from"] or "-",
            rung["spent_by"],
            f"{rung['accuracy']:.4f}",
            *(
                (f"{100 * rung['delta']:+.2f}", f"{100 * rung['delta_low']:+.2f} to {100 * rung['delta_high']:+.2f}")
                if rung["from"]
                else ("-", "-")
            ),
            f"{rung['n']:,}",
        )
        for rung in rungs
    ]
    head = ("step", "made from", "by", "accuracy", "points", "95 % interval", "n")
    chart = page.wide(Html(pictures.svg(lambda out: pictures.budget(out, rungs), "accuracy budget")))
    return page.join(
        page.sentence("Points are percentage points against the step it was made from, on the same samples."),
        page.captioned(chart, "Dots are differences, whiskers their 95 % intervals.", kind="chart"),
        page.table(head, rows, words=(0, 1, 2)),
    )


def engines(selection: dict[str, Any], machine: dict[str, Any]) -> Html:
    """Return every engine with its verdict, the reasons and its figures, and the rules it had to pass."""
    rules = ", ".join(f"{name} {bound:g}" for name, bound in selection["bounds"].items())
    chosen, why = selection["chosen"], f", {selection['why']}" if selection["why"] else ""
    measured = next(row for row in selection["rows"] if "calls" in row)
    head = (
        "engine",
        "verdict",
        page.noted("accuracy", f"n={measured['n']:,}"),
        page.noted("agreement", "with the reference"),
        page.noted("p50, ms", f"n={measured['calls']:,} calls"),
        "p99, ms",
        page.noted("samples/s", "at its best batch"),
        page.noted("file, MB", "in memory"),
    )
    rows = [
        (page.tag("span", row["engine"], class_="name"), row["verdict"], *figures(row)) for row in selection["rows"]
    ]
    marked = next((i for i, row in enumerate(selection["rows"]) if row["engine"] == chosen), None)
    return page.join(
        page.sentence("Chosen by ", selection["objective"], ": ", page.tag("b", chosen or "none"), why, "."),
        page.sentence("Rules (drops and agreement against the original network, on the same test set): ", rules, "."),
        page.table(head, rows, words=(0, 1), marked=marked),
        page.sentence(
            f"Times are of {machine['cpu']}, {machine['threads']} threads an engine; latency is of one sample. "
            "Intervals are of 95 %.",
            class_="quiet",
        ),
    )


def figures(row: dict[str, Any]) -> list[Html]:
    """Return an engine's figures, a dash for what was not measured."""

    def figure(name: str, form: str, scale: float = 1) -> str:
        return "-" if row.get(name) is None else format(row[name] / scale, form)

    interval = f"{row['low']:.4f} to {row['high']:.4f}" if "low" in row else ""
    batch = f"batch {row['batch']}" if "batch" in row else ""
    memory = f"{row['memory_mb']:.1f} MB" if row.get("memory_mb") is not None else ""
    return [
        page.noted(figure("accuracy", ".4f"), interval),
        page.safe(figure("agreement", ".4f")),
        page.safe(figure("p50_ms", ".3f")),
        page.safe(figure("p99_ms", ".3f")),
        page.noted(figure("images_per_s", ",.0f"), batch),
        page.noted(figure("size_bytes", ".3f", 1e6), memory),
    ]


def cleared_by(verdict: dict[str, Any]) -> str:
    """Say what of a validation has to clear the target."""
    if verdict["confidence"] == 0:
        return f"the {verdict['metric']} itself"
    return f"the lower end of its {100 * verdict['confidence']:g} % interval"


def span(row: dict[str, Any]) -> str:
    """Return the 95 % interval of a share, and its n."""
    return f"{row['low']:.4f} to {row['high']:.4f} (95 % interval, n={row['n']:,})"
