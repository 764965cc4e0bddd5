"""What people see of a run: one line a stage, one progress line at most every 5 s, the table; 80 columns."""

import shutil
import textwrap
import time
from typing import Any

WIDTH, NARROWEST = 80, 60
PROGRESS_S = 5.0
COLUMNS = {  # of the table: room, key of a row, format
    "accuracy": (9, "accuracy", ".4f"),
    "p50 ms": (8, "p50_ms", ".3f"),
    "p99 ms": (8, "p99_ms", ".3f"),
    "images/s": (9, "images_per_s", ",.0f"),
    "MB": (6, "size_bytes", ".2f"),
}
_shown = 0.0
_pending: dict[str, str] = {}  # stage: its latest line, not printed yet


def say(text: str = "") -> None:
    """Print a line now, whoever reads us."""
    print(text, flush=True)


def width() -> int:
    """Return how many columns to fill: 80, or what a narrower terminal has."""
    return max(NARROWEST, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def paragraph(text: str) -> None:
    """Print a sentence of any length, wrapped to the terminal's width."""
    say("\n".join(textwrap.wrap(text, width(), subsequent_indent="  ", break_on_hyphens=False)))


def fit(text: str) -> str:
    """Cut a line to the terminal's width."""
    return text if len(text) <= width() else text[: width() - 1] + "…"


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
    """Return the engines' table: accuracy, latency at batch 1, throughput, size, verdict; reasons below it.

    A terminal of less than 80 columns gets fewer.
    """
    columns = COLUMNS if width() == WIDTH else {name: COLUMNS[name] for name in ("accuracy", "p50 ms")}
    lines = [f"{'engine':<18}" + "".join(f"{name:>{room}}" for name, (room, _, _) in columns.items()) + "  verdict"]
    notes: dict[str, list[str]] = {}  # a reason, and the engines it is for
    for row in rows:
        verdict = row["verdict"]
        if "not_measured" in row or len(verdict) > 20:
            notes.setdefault(verdict, []).append(row["engine"])
            verdict = "built, not run here" if "not_measured" in row else "refused"
        cells = "".join(cell(row, *column) for column in columns.values())
        lines.append(f"{row['engine']:<18}{cells}  {verdict}")
    for reason, engines in notes.items():
        note = f"{', '.join(engines)}: {reason}"
        lines += textwrap.wrap(note, width(), initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def cell(row: dict[str, Any], room: int, key: str, form: str) -> str:
    """Return one number of the table, or a dash for what was not measured."""
    value = row.get(key)
    if value is None:
        return f"{'-':>{room}}"
    return f"{format(value / 1e6 if key == 'size_bytes' else value, form):>{room}}"
