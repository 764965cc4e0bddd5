"""Labels that come late: how right the live version was, and new training data for the next one."""

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from flows import gate, receipt, services, terminal
from flows.bulk import Bulk
from flows.incoming import INCOMING
from tasks import atomic
from tasks.digest import sha256
from tasks.settings import STATE

FOLDER = STATE / "feedback"
SHOWN = 5


def feed(pipeline: str, folder: Path) -> int:
    """Take in files that people have labelled, `FOLDER/<class>/file`; print how the live version did; return 0."""
    classes = gate.classes(pipeline)
    receipt.demand(pipeline)
    paths = labelled(folder, classes)
    every = services.known()
    services.start(every)
    services.wait(every)
    kept = rows(pipeline)
    known = {row["sha256"] for row in kept}
    found, refused = [], []
    for path, row in zip(paths, Bulk(pipeline, folder).rows(paths), strict=True):
        if row.error:
            refused.append(f"{row.path}: {row.error}")
            continue
        mark = sha256(path)
        if mark in known:
            continue
        known.add(mark)
        facts = {"label": path.parent.name, "answer": row.label, "confidence": row.confidence, "version": row.version}
        found.append({"time": round(time.time(), 3), "sha256": mark, **facts})
        place = FOLDER / pipeline / path.parent.name / f"{mark[:16]}{path.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    atomic.write_text(FOLDER / f"{pipeline}.jsonl", "".join(json.dumps(row) + "\n" for row in [*kept, *found]))
    for line in [*refused[:SHOWN], *[f"... and {len(refused) - SHOWN} more"] * (len(refused) > SHOWN)]:
        terminal.paragraph(f"not taken: {line}")
    terminal.paragraph(said(found, len(paths) - len(found) - len(refused)))
    return 0


def labelled(folder: Path, classes: list[str]) -> list[Path]:
    """Return the files below class folders; `ValueError` for a folder that is no class."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give one that holds a folder per class")
    others = [each.name for each in sorted(folder.iterdir()) if each.is_dir() and each.name not in classes]
    if others:
        raise ValueError(f"{folder / others[0]}: no class of that name; there are: {', '.join(classes)}")
    found = [path for path in sorted(folder.glob("*/*")) if path.is_file() and not path.name.startswith(".")]
    if not found:
        raise ValueError(f"{folder}: no labelled file; put them in folders named by class: {', '.join(classes)}")
    return found


def said(found: list[dict[str, Any]], twice: int) -> str:
    """Say what was taken in."""
    right = sum(row["label"] == row["answer"] for row in found)
    again = f", {twice:,} were here already" if twice else ""
    mistaken = Counter(f"{row['label']} taken for {row['answer']}" for row in found if row["label"] != row["answer"])
    worst = f"; most often {mistaken.most_common(1)[0][0]}" if mistaken else ""
    return f"{len(found):,} labels taken in{again}; the live version was right in {right:,}{worst}"


def rows(pipeline: str) -> list[dict[str, Any]]:
    """Return every label that came, with the answer that the version live at that time gave."""
    path = FOLDER / f"{pipeline}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def counted(pipeline: str, version: int) -> tuple[int, int]:
    """Return how many answers of a version were right, and of how many labels."""
    own = [row["label"] == row["answer"] for row in rows(pipeline) if row["version"] == version]
    return sum(own), len(own)


def take_in(pipeline: str) -> int:
    """Move the labelled files to where the next run finds new training data; return how many."""
    paths = sorted((FOLDER / pipeline).glob("*/*"))
    for path in paths:
        place = INCOMING / pipeline / path.parent.name / f"feedback-{path.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
    return len(paths)
