"""What people see of a run: one line a stage, one progress line at most every 5 s, the table; 80 columns."""

import textwrap
import time
from typing import Any

WIDTH = 80
PROGRESS_S = 5.0
_shown = 0.0
_pending: dict[str, str] = {}  # stage: its latest line, not printed yet


def say(text: str = "") -> None:
    """Print a line now, whoever reads us."""
    print(text, flush=True)


def paragraph(text: str) -> None:
    """Print a sentence of any length, wrapped to the terminal's width."""
    say("\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)))


def fit(text: str) -> str:
    """Cut a line to the terminal's width."""
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def outcome(stage: str, took: str, message: str) -> None:
    """Print the one line of a stage that ended: its name, how long it took, its last words."""
    _pending.clear()
    say(fit(f"{short(stage):<19}{took:>8}  {message}".rstrip()))


def short(stage: str) -> str:
    """Return a stage's name for one pipeline: `build@fashion-onnxruntime` -> `build onnxruntime`."""
    name, _, rest = stage.partition("@")
    _, _, part = rest.partition("-")
    return f"{name} {part}".strip()


def progress(stage: str, message: str) -> None:
    """Print where a stage is, at most every 5 s; its last words are left to `outcome`."""
    global _shown
    if stage not in _pending:
        _shown = time.monotonic()
    elif time.monotonic() - _shown >= PROGRESS_S:
        _shown = time.monotonic()
        say(fit(f"  {short(stage)}: {_pending[stage]}"))
    _pending[stage] = message


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
