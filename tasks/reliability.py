"""How far a confidence can be believed: accuracy against confidence, bin by bin, and the error over all of them."""

from typing import Any

import numpy as np

from tasks import page, pictures
from tasks.interval import wilson
from tasks.page import Html

BINS = 15  # as many as the source takes
SOURCE = "C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: On Calibration of Modern Neural Networks, ICML 2017"


def bins(confidence: Any, right: Any) -> list[dict[str, Any]]:
    """Return equal bins over 0..1, each open below: bounds and n; where n, mean confidence, accuracy, its interval.

    `confidence` is float [n], `right` boolean [n].
    """
    confidence = np.asarray(confidence, np.float64)
    places = np.searchsorted(np.arange(1, BINS) / BINS, confidence)
    found = []
    for place in range(BINS):
        inside = places == place
        row: dict[str, Any] = {"low": place / BINS, "high": (place + 1) / BINS, "n": int(inside.sum())}
        if row["n"]:
            low, high = wilson(int(right[inside].sum()), row["n"])
            row |= {"confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())}
            row |= {"accuracy_low": low, "accuracy_high": high}
        found.append(row)
    return found


def expected_error(found: list[dict[str, Any]]) -> float:
    """Return the expected calibration error, 0..1: the mean gap between confidence and accuracy, weighted by n."""
    n = sum(row["n"] for row in found)
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in found if row["n"]) / n


def chapter(confidence: Any, right: Any) -> Html:
    """Return the section of a report: the error, the plot and its numbers."""
    found, n = bins(confidence, right), len(right)
    gap = 100 * (float(np.mean(confidence, dtype=np.float64)) - float(right.mean()))
    words = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} its accuracy"
    rows = [
        (
            f"{row['low']:.2f} to {row['high']:.2f}",
            f"{row['n']:,}",
            f"{row['confidence']:.4f}",
            f"{row['accuracy']:.4f}",
            f"{row['accuracy_low']:.4f} to {row['accuracy_high']:.4f}",
        )
        for row in found
        if row["n"]
    ]
    head = ("confidence", "n", "mean confidence", "accuracy", "95 % interval")
    return page.join(
        page.sentence(
            "Expected calibration error ",
            page.tag("b", f"{expected_error(found):.4f}"),
            f" (n={n:,}, {BINS} equal bins; {SOURCE}). On the whole the engine's confidence is {words}.",
        ),
        page.captioned(
            page.wide(Html(pictures.svg(lambda out: pictures.reliability(out, found), "reliability plot"))),
            "Above: where the points lie below the dashed line, the engine is surer than it is right. "
            f"Below: how many of the {n:,} samples of the test set each bin has.",
            kind="chart",
        ),
        page.folded("The numbers of the plot", page.table(head, rows)),
    )
