"""The memory of an engine: by how much a process grows that loads and runs it."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any


def grown_mb(load: Callable[[], Callable[[Any], Any]], x: Any) -> float | None:
    """Return the MB that a forked process grows by, at its peak, while it loads an engine and runs it once on `x`.

    The caller has started no thread of the engine's library yet: a fork takes none along. None where it failed.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(ours)
            before = resident("VmRSS")
            load()(x)
            os.write(theirs, struct.pack("d", (resident("VmHWM") - before) / 1e6))
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return round(float(struct.unpack("d", answer)[0]), 1) if answer else None


def resident(name: str) -> float:
    """Return VmRSS (now) or VmHWM (at the peak) of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1]) * 1024  # "kB" there are 1,024 bytes
    raise ValueError(f"/proc/self/status: no {name}")
