"""Secrets, each in a file that only its owner reads: the clients' keys, and the token that controls the servers.

A key belongs to a class of requests: realtime, of those who wait for an answer, or throughput, of bulk work.
"""

import os
import re
import secrets
from pathlib import Path

from tasks.settings import STATE

CONTROL = STATE / "triton" / "token"
KEYS = STATE / "door" / "keys"
REALTIME, THROUGHPUT = "realtime", "throughput"
FIRST, BULK = "local", "bulk"  # names of the keys that everybody on this machine is meant to use, one a class
NAME = "[a-z][a-z0-9_-]{0,31}"
LINE = r"Authorization: Bearer ([A-Za-z0-9_-]{32,64})\n?"  # each becomes a part of nginx's configuration


def control() -> str:
    """Return the token that loads and unloads models, made where there is none."""
    if not CONTROL.exists():
        write(CONTROL, secrets.token_hex(32))
    return CONTROL.read_text()


def keys() -> dict[str, str]:
    """Return each key by `class/name` of its client, the first ones made where there is none, hidden files left out."""
    if not any(folder(REALTIME).glob("[!.]*")):
        issue(FIRST)
    if not any(folder(THROUGHPUT).glob("[!.]*")):
        issue(BULK, THROUGHPUT)
    found = [(kind, path) for kind in (REALTIME, THROUGHPUT) for path in sorted(folder(kind).glob("[!.]*"))]
    return {f"{kind}/{path.name}": key(path) for kind, path in found}


def folder(kind: str) -> Path:
    """Return where the keys of a class lie."""
    return KEYS / kind


def own(kind: str = REALTIME) -> Path:
    """Return the file of the key of this machine's own clients."""
    return folder(kind) / {REALTIME: FIRST, THROUGHPUT: BULK}[kind]


def key(path: Path) -> str:
    """Read a client's key; `ValueError` names a file that holds none."""
    found = re.fullmatch(LINE, path.read_text(errors="replace"))
    if not re.fullmatch(NAME, path.name) or not found:
        raise ValueError(f"{path}: no key of a client; remove it, and make one with: engineworks key NAME")
    return found[1]


def issue(name: str, kind: str = REALTIME) -> Path:
    """Make a client's key, or leave the one it has; return the file, the header line that curl sends with -H @FILE."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"key: '{name}' is no name: 1 to 32 of a-z, 0-9, - and _, a letter first")
    path = folder(kind) / name
    if not path.exists():
        write(path, f"Authorization: Bearer {secrets.token_urlsafe(32)}\n")
    return path


def write(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.touch(mode=0o600)
    aside.write_text(text)
    aside.rename(path)
