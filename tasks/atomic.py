"""Outputs that appear whole or not at all: written beside the target, then renamed into place."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def folder(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` and rename it to `out` at the end; an error leaves all as it was."""
    aside = out.with_name(f"{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)


def write_json(out: Path, content: dict[str, Any]) -> None:
    """Write readable JSON, keys in the order given."""
    write_text(out, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(out: Path, text: str) -> None:
    """Write a text."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f"{out.name}.partial")
    aside.write_text(text)
    aside.rename(out)
