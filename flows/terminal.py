"""What people see of a run: one line a stage, one progress line at most every 5 s, the table; 80 columns."""

import textwrap
import time
from typing import Any

WIDTH = 80
PROGRESS_S = 5.0
_shown = 0.0


def say(text: str = "") -> None:
    """Print a line now, whoever reads us."""
    print(text, flush=True)


def fit(text: str) -> str:
    """Cut a line to the terminal's width."""
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def outcome(stage: str, how: str, seconds: float | None, message: str) -> None:
    """Print the one line of a stage that ended."""
    took = f"{seconds:6.1f} s" if seconds is not None else " " * 8
    say(fit(f"{stage.split('@')[0] + suffix(stage):<19} {how:<8} {took}  {message}".rstrip()))


def suffix(stage: str) -> str:
    """Return which of several like stages this is: `build@fashion-onnxruntime` -> ` onnxruntime`."""
    _, _, part = stage.partition("-")
    return f" {part}" if part else ""


def progress(stage: str, message: str) -> None:
    """Print a progress line, unless the last one is younger than 5 s."""
    global _shown
    if time.monotonic() - _shown >= PROGRESS_S:
        _shown = time.monotonic()
        say(fit(f"  {stage.split('@')[0]}: {message}"))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the engines' table: accuracy, latency at batch 1, throughput, size, verdict; reasons below it."""
    lines = [f"{'engine':<18}{'accuracy':>9}{'p50 ms':>8}{'p99 ms':>8}{'images/s':>9}{'MB':>6}  verdict"]
    notes = []
    for row in rows:
        size = f"{row['size_bytes'] / 1e6:.2f}" if row["size_bytes"] else "-"
        if "not_measured" in row:
            cells, verdict = f"{'-':>9}{'-':>8}{'-':>8}{'-':>9}", "built, not run here"
            notes.append(f"{row['engine']}: {row['verdict']}")
        else:
            cells = f"{row['accuracy']:>9.4f}{row['p50_ms']:>8.3f}{row['p99_ms']:>8.3f}{row['images_per_s']:>9,.0f}"
            verdict = row["verdict"]
            if len(verdict) > 20:
                notes.append(f"{row['engine']}: {verdict}")
                verdict = "refused"
        lines.append(f"{row['engine']:<18}{cells}{size:>6}  {verdict}")
    for note in notes:
        lines += textwrap.wrap(note, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)
