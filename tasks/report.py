"""report: one page for people, from the data to the verdict on every engine."""

import json
from pathlib import Path
from typing import Any

from tasks import atomic, chapters, mistakes, page, reliability
from tasks.chapters import cleared_by, span
from tasks.page import Html


def report(
    pipeline: str,
    prepare: Path,
    augment: Path,
    curves: Path,
    train_metrics: Path,
    answers: Path,
    measure: Path,
    select: Path,
    out: Path,
) -> None:
    """Leave one HTML page that needs no other file: data, augmentation, training, mistakes, calibration, engines.

    Mistakes and calibration are the chosen engine's on the test set; where none was chosen, the original network's.
    The same inputs give the same bytes.
    """
    from safetensors.numpy import load_file

    spec, verdict, selection = (json.loads(path.read_text()) for path in (prepare / "spec.json", train_metrics, select))
    judged = selection["chosen"] or selection["rows"][0]["engine"]
    kept = load_file(answers)
    truth, answer, confidence = kept["truth"], kept[judged], kept[f"confidence/{judged}"]
    accounts = json.loads((prepare / "report.json").read_text())
    whose = page.sentence(f"Of {judged} on the test set{'' if selection['chosen'] else '; no engine was chosen'}.")
    sections = {
        "Data": chapters.data(prepare, spec, accounts),
        "Augmentation": chapters.augmentation(augment),
        "Training": chapters.training(curves / "curves.csv", verdict),
        "Mistakes": page.join(
            whose,
            mistakes.confusion(truth, answer, spec["classes"]),
            mistakes.worst(prepare, spec, truth, answer, confidence),
        ),
        "Confidence": page.join(whose, reliability.chapter(confidence, truth == answer)),
        "Accuracy budget": chapters.budget(selection["budget"]),
        "Engines": chapters.engines(selection, json.loads(measure.read_text())["machine"]),
    }
    head = headline(verdict, selection, accounts, reliability.bins(confidence, truth == answer))
    atomic.write_text(out, page.page(f"Run report: {pipeline}", head, sections))
    print(f"{out}, {out.stat().st_size / 1e6:.1f} MB")


def headline(
    verdict: dict[str, Any], selection: dict[str, Any], accounts: dict[str, Any], bins: list[dict[str, Any]]
) -> Html:
    """Return the figures of the run that are asked for first."""
    reference, *_ = selection["rows"]
    best = next((row for row in selection["rows"] if row["engine"] == selection["chosen"]), reference)
    times = reference["p50_ms"] / best["p50_ms"]
    facts = [
        (
            "target",
            "reached" if verdict["reached"] else "not reached",
            f"validation {verdict['metric']} {span(verdict)}, target {verdict['target']:g} for {cleared_by(verdict)}",
        ),
        ("chosen engine", selection["chosen"] or "none", selection["why"] or f"objective: {selection['objective']}"),
        (f"test accuracy of {best['engine']}", f"{best['accuracy']:.4f}", span(best)),
        (
            "latency, median of one sample",
            f"{best['p50_ms']:.3f} ms",
            f"{times:.1f} times as fast as {reference['engine']}, n={best['calls']:,} calls",
        ),
        ("expected calibration error", f"{reliability.expected_error(bins):.4f}", f"on the test set, n={best['n']:,}"),
        ("files rejected", f"{accounts['rejected']:,}", f"of {accounts['seen']:,} seen"),
    ]
    return page.tiles(facts)
