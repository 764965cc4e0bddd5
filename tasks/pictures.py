"""Every picture a run leaves. No stage's numbers depend on this file, so DVC does not watch it."""

import html
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# Told apart by the colour-blind, too: M. Okabe and K. Ito, "Color Universal Design" (2008).
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8c959f"
Target = Path | IO[bytes]


def class_balance(out: Path, classes: list[str], counts: dict[str, list[int]]) -> None:
    """Draw the images per class of each split, side by side."""
    plt = pyplot()
    figure, axes = plt.subplots(1, len(counts), figsize=(11, 0.32 * len(classes) + 1.2), sharey=True)
    for axis, (split, numbers) in zip(axes, counts.items(), strict=True):
        bars = axis.barh(classes, numbers, color=BLUE)
        axis.bar_label(bars, fontsize=7, padding=2)
        axis.set_title(f"{split}: {sum(numbers):,}", fontsize=10)
        axis.set_xlim(0, max(numbers) * 1.25)
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    axes[0].invert_yaxis()
    save(figure, out)


def sample_grid(out: Path, rows: list[str], images: list[list[Any]], heads: tuple[str, ...] = ()) -> None:
    """Draw one row of images per name, `heads` over the first columns; images are HW or HWC uint8 arrays."""
    plt = pyplot()
    columns = max(len(row) for row in images)
    figure, axes = plt.subplots(len(rows), columns, figsize=(columns * 0.8 + 1.4, len(rows) * 0.8), squeeze=False)
    for name, line, row in zip(rows, axes, images, strict=True):
        for axis, image in zip(line, [*row, *[None] * (columns - len(row))], strict=True):
            axis.axis("off")
            if image is not None:
                axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    for axis, head in zip(axes[0], heads, strict=False):
        axis.set_title(head, fontsize=9)
    figure.subplots_adjust(left=0.16, right=0.99, top=0.94 if heads else 0.99, bottom=0.01, wspace=0.04, hspace=0.06)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def curves(out: Target, rows: list[dict[str, float]], target: float, metric: str, n: int | None = None) -> None:
    """Draw validation accuracy (on `n` samples) with its interval against the target, and the losses, by epoch."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    epochs = [row["epoch"] for row in rows]
    left.fill_between(
        epochs, [r["low"] for r in rows], [r["high"] for r in rows], color=BLUE, alpha=0.2, lw=0, label="95 % interval"
    )
    if len(rows) == 1:  # a band has no width
        left.vlines(epochs, rows[0]["low"], rows[0]["high"], color=BLUE, alpha=0.2, lw=8)
    left.plot(epochs, [r["validation"] for r in rows], "o-", color=BLUE, label=f"validation {metric}")
    left.axhline(target, color=ORANGE, ls="--", label=f"target {target}")
    left.set(xlabel="epoch", ylabel=f"{metric}, n={n:,}" if n else metric)
    left.legend(fontsize=8, frameon=False)
    if "train_loss" not in rows[0]:  # an imported model has none
        right.set_axis_off()
    else:
        right.plot(epochs, [r["train_loss"] for r in rows], "o-", color=GREY, label="training loss, smoothed labels")
        right.plot(epochs, [r["validation_loss"] for r in rows], "o-", color=BLUE, label="validation loss")
        right.legend(fontsize=8, frameon=False)
        right.set(xlabel="epoch", ylabel="cross-entropy, nats")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, out)


def budget(out: Target, rungs: list[dict[str, Any]]) -> None:
    """Draw what each step changed, in percentage points with its 95 % interval, and the accuracy it ends at."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(rungs) + 1.2))
    for height, rung in enumerate(rungs):
        low, middle, high = (100 * rung[name] for name in ("delta_low", "delta", "delta_high"))
        if rung["from"] is not None:
            colour = ORANGE if high < 0 else GREEN if low > 0 else BLUE
            axis.errorbar(middle, height, xerr=[[middle - low], [high - middle]], fmt="o", color=colour, capsize=3)
        text = f"{rung['accuracy']:.4f}" + ("" if rung["from"] is None else f"   {rung['spent_by']}")
        axis.text(1.02, height, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8)
    axis.axvline(0, color=GREY, lw=1)
    axis.set_yticks(range(len(rungs)), [rung["step"] for rung in rungs])
    axis.invert_yaxis()
    axis.set_xlabel(f"percentage points against the step it was made from, 95 % interval, n={rungs[0]['n']:,}")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", alpha=0.25)
    save(figure, out)


def reliability(out: Target, bins: list[dict[str, Any]]) -> None:
    """Draw accuracy with its 95 % interval against confidence, bin by bin, and how many samples each bin has."""
    plt = pyplot()
    figure, (axis, below) = plt.subplots(2, 1, figsize=(6, 5.6), sharex=True, height_ratios=(3, 1))
    axis.plot([0, 1], [0, 1], color=GREY, ls="--", label="as accurate as confident")
    for each in (each for each in bins if each["n"]):
        x, y = each["confidence"], each["accuracy"]
        axis.vlines(x, *sorted((x, y)), color=ORANGE, lw=4, alpha=0.45, label="gap")
        spread = [[y - each["accuracy_low"]], [each["accuracy_high"] - y]]
        axis.errorbar(x, y, yerr=spread, fmt="o", color=BLUE, capsize=3, label="accuracy, 95 % interval")
    named = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(named.values(), named.keys(), fontsize=8, frameon=False, loc="upper left")
    axis.set(ylabel="accuracy, share of right answers", xlim=(0, 1), ylim=(0, 1.02))
    edges = [each["low"] for each in bins]
    drawn = below.bar(edges, [each["n"] for each in bins], width=0.9 / len(bins), align="edge", color=BLUE)
    below.bar_label(drawn, [f"{each['n']:,}" if each["n"] else "" for each in bins], fontsize=7, padding=1)
    below.margins(y=0.25)
    below.set(xlabel="confidence, largest softmax probability", ylabel=f"samples, n={sum(b['n'] for b in bins):,}")
    for each in (axis, below):
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    save(figure, out)


def load_curve(out: Path, curves: dict[str, list[tuple[float, float]]], bound_ms: float, title: str) -> None:
    """Draw the p99 (ms) that each rate (requests/s) was answered with, one curve per combination, and the bound."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(8, 4.2))
    for (name, points), colour, mark in zip(curves.items(), (BLUE, ORANGE), "os", strict=False):
        rates, p99s = zip(*points, strict=True) if points else ((), ())
        axis.plot(rates, p99s, mark, color=colour, alpha=0.75, ms=6, label=name)
    axis.axhline(bound_ms, color=GREY, ls="--", label=f"bound: {bound_ms:g} ms")
    axis.set(xlabel="requests/s, Poisson arrivals", ylabel="p99, ms", yscale="log", title=title)
    for number in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        number("{x:g}")
    axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axis.grid(alpha=0.25, which="both")
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, out)


def svg(draw: Callable[[IO[bytes]], None], title: str) -> str:
    """Return what `draw` draws as SVG to stand inside a page, on its ground and in its colour of text.

    The same drawing gives the same text: it names no date, and no address.
    """
    pyplot()
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"savefig.format": "svg", "svg.hashsalt": "engineworks"}):
        draw(buffer)
    text = buffer.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("#ffffff", "none").replace("#000000", "currentColor")
    width = re.search(r'<svg[^>]* width="([\d.]+)pt"', text)
    assert width is not None
    size = f'style="--width:{float(width[1]) * 1.2:.0f}px" fill="currentColor"'
    head = re.sub(r' (width|height|version)="[^"]*"', "", text[: text.index(">")])
    return f'{head} role="img" aria-label="{html.escape(title)}" {size}{text[text.index(">") :]}'


def pyplot() -> Any:
    """Import matplotlib for files only; a dollar sign in a name of class is a dollar sign."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False
    import matplotlib.pyplot as plt

    return plt


def save(figure: Any, out: Target) -> None:
    """Save and close a figure."""
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot().close(figure)
