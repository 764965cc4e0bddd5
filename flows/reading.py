"""Files as they are scored: each is read and judged as prepare would, and named below its folder."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import incoming
from flows.replicas import knobs as serving_knobs
from tasks.command import workload_of
from tasks.params import PARAMS, block, checked, read
from tasks.workload import part

HEADER_BYTES = 100_000  # of a message beside the files: names, shapes, lengths


@dataclass(frozen=True)
class Row:
    """What became of a file: its path below the folder and either an answer or an error; scores are float32."""

    path: str
    label: str | None = None
    confidence: float | None = None
    scores: Any = None
    version: int | None = None  # of the deploy that answered
    error: str | None = None


@dataclass(frozen=True)
class Reader:
    """What reads the files of a folder; plain facts, so that it can be sent to other machines."""

    folder: Path
    workload: str
    knobs: dict[str, Any]  # `prepare.input`
    room: int  # bytes that one message may hold
    source: Any = field(init=False, repr=False, compare=False)
    input: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", part(self.workload, "source"))
        object.__setattr__(self, "input", checked(self.source.Input, self.knobs, f"{PARAMS}: prepare.input"))

    def __reduce__(self) -> Any:
        """Send the facts alone."""
        return Reader, (self.folder, self.workload, self.knobs, self.room)

    def sound(self, path: Path) -> bytes:
        """Return a file's bytes; `ValueError` says, as prepare would, why it can't be used."""
        known = hasattr(self.source, "obstacle")  # a modality may know more than that a file is no pipe
        problem = self.source.obstacle(path, self.folder.resolve()) if known else incoming.obstacle(path)
        if problem:
            raise ValueError(problem)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"can't be read: {error.strerror}") from None
        if len(data) + 4 > self.room:
            raise ValueError(f"{len(data):,} bytes, more than one message may hold ({self.room:,}): save it smaller")
        self.source.decode(data, self.input)
        return data

    def name(self, path: Path) -> str:
        """Return a file's path below the folder, bytes that are no UTF-8 as escapes."""
        return os.fsencode(path.relative_to(self.folder)).decode("utf-8", "backslashreplace")


def reader(pipeline: str, folder: Path) -> Reader:
    """Return what reads a folder's files for a pipeline of params.yaml."""
    section = block(pipeline, read())
    room = serving_knobs().max_body_mb * 2**20 - HEADER_BYTES
    return Reader(folder, workload_of(section), section["prepare"]["input"], room)
