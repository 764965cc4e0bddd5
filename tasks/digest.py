"""The SHA-256 of a file, or of several."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def joint(*paths: Path) -> str:
    """Return one SHA-256 over the bytes of several files, one after the other."""
    return of_bytes(b"".join(path.read_bytes() for path in paths))


def of_bytes(content: bytes) -> str:
    """Return the SHA-256 of bytes in memory."""
    return hashlib.sha256(content).hexdigest()
