"""What the doctor says of one thing."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line: a note or a problem says what to do, what is well does not."""

    area: str
    name: str
    state: Literal["ok", "note", "problem"]
    value: str
    remedy: str = ""
