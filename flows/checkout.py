"""What the doctor sees of the checkout: versions and disk."""

import importlib.metadata
import os
import re
import shutil
import stat
import sys
import tomllib
from pathlib import Path

from flows import serving
from flows.finding import Finding
from tasks.settings import STATE

LOCK, PROJECT = Path("requirements.lock"), Path("pyproject.toml")
GB = 1e9
FIRST_RUN_GB, LEAST_GB = 4, 1


def versions() -> list[Finding]:
    """Return Python, each package that is not as locked, where the code lies, and whether the server is installed."""
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))
    wrong = [finding for name, version in locked.items() for finding in deviation(name, version)]
    right = Finding("versions", "packages", "ok", f"{len(locked) - len(wrong)} packages as locked")
    return [python(), right, *wrong, *code(), server()]


def python() -> Finding:
    """Return whether this Python is one that pyproject.toml asks for."""
    wanted = tomllib.loads(PROJECT.read_text())["project"]["requires-python"]
    bounds = [(sign, tuple(map(int, v.split(".")))) for sign, v in re.findall(r"(>=|<)([\d.]+)", wanted)]
    running = sys.version_info[:3]
    value = ".".join(map(str, running))
    if all(running >= bound if sign == ">=" else running < bound for sign, bound in bounds):
        return Finding("versions", "python", "ok", value)
    remedy = "rm -r .venv; make setup PYTHON=<a Python in that range>"
    return Finding("versions", "python", "problem", f"{value}, wanted {wanted}", remedy)


def deviation(name: str, locked: str) -> list[Finding]:
    """Return a finding where a package is not as locked; a build's suffix (`+cpu`) does not count."""
    try:
        there = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        there = ""
    if there.partition("+")[0] == locked:
        return []
    value = f"{there or 'not'} installed, {locked} locked"
    return [Finding("versions", name, "problem", value, "rm -f .venv/ready; make setup")]


def code() -> list[Finding]:
    """Return a finding where the flows that run are another checkout's."""
    home = Path(__file__).resolve().parents[1]
    if home == Path.cwd():
        return []
    remedy = "start it here as .venv/bin/python -m flows.cli"
    return [Finding("versions", "code", "note", f"runs from another checkout, {home}", remedy)]


def server() -> Finding:
    """Return whether the inference server is installed."""
    if serving.STAMP.exists():
        return Finding("versions", "server", "ok", f"installed in {serving.SERVING}")
    remedy = ".venv/bin/engineworks setup; make run does it, too"
    return Finding("versions", "server", "note", f"not installed in {serving.SERVING}", remedy)


def disk() -> list[Finding]:
    """Return the free space, whether the checkout is writable, and whether `.state` is private."""
    return [space(shutil.disk_usage(Path.cwd()).free / GB), writable(), private()]


def space(free_gb: float) -> Finding:
    """Return whether the free space is enough."""
    value = f"{free_gb:.1f} GB free"
    if free_gb < LEAST_GB:
        return Finding("disk", "space", "problem", value, f"make room: a first run needs {FIRST_RUN_GB} GB")
    if free_gb < FIRST_RUN_GB:
        return Finding("disk", "space", "note", value, f"make room before a first run: it needs {FIRST_RUN_GB} GB")
    return Finding("disk", "space", "ok", value)


def writable() -> Finding:
    """Return whether this user may write here."""
    if os.access(".", os.W_OK):
        return Finding("disk", "checkout", "ok", "writable")
    return Finding("disk", "checkout", "problem", "not writable by you", "run as its owner, or in a clone of your own")


def private() -> Finding:
    """Return whether others may write to `.state`, whose code and configurations the servers run, or read it."""
    if not STATE.exists():
        return Finding("disk", str(STATE), "ok", "not there yet; the first run makes it")
    mode, remedy = stat.S_IMODE(STATE.stat().st_mode), f"chmod 700 {STATE}"
    if mode & 0o022:
        return Finding("disk", str(STATE), "problem", f"others may write to it (mode {mode:o})", remedy)
    if mode & 0o055:
        return Finding("disk", str(STATE), "note", f"others may read it (mode {mode:o})", remedy)
    return Finding("disk", str(STATE), "ok", f"private (mode {mode:o})")
