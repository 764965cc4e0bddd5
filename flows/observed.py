"""The log of sampled answers for drift monitoring, as infra/serving/repository/observed.py writes it."""

import json
from collections.abc import Iterator
from typing import Any

from flows.serving import OBSERVED


def read(pipeline: str) -> Iterator[dict[str, Any]]:
    """Give what is kept of a pipeline's answers, the older file first; nothing where there is no log.

    Each has `time` (seconds since 1970), `version`, `label`, `confidence`, `scores` (of each class, in the order of
    spec.json) and, where the knob says statistics, `input`: mean, std, min and max of each channel as prepared.
    """
    for name in (f"{pipeline}.1.jsonl", f"{pipeline}.jsonl"):
        path = OBSERVED / name
        if path.exists():
            yield from whole(path.read_bytes())


def whole(text: bytes) -> Iterator[dict[str, Any]]:
    """Give each line that was written to its end: a killed server may leave part of one, even before another line."""
    for line in text.splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line[line.rindex(b'{"time":') :])
