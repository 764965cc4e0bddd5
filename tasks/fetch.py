"""fetch: bring a data set here from the first source that has it, each file checked by its SHA-256."""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import urllib.request
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from tasks import atomic, settings
from tasks.params import file_name

CONNECT_TIMEOUT_S = 5
FileName = Annotated[str, AfterValidator(file_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def fetch(
    out: Path,
    *,
    https: Annotated[str, Field(pattern=r"^https://\S+$")],
    debian: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]+$")],
    files: Annotated[dict[FileName, Sha256], Field(min_length=1)],
) -> None:
    """Leave `files` (name: SHA-256 of the decompressed content) in `out`, decompressed.

    Sources in order: the folder `ENGINEWORKS_MIRROR`, the address `https`, the Debian package `debian`. Each may hold a
    file as it is or gzipped (`.gz`). `ValueError` names every source and why it failed; `out` appears whole or not at
    all.
    """
    sources: list[tuple[str, Callable[[str], bytes]]] = []
    mirror = os.environ.get("ENGINEWORKS_MIRROR")
    if mirror:
        sources.append((f"mirror folder {mirror}", lambda name: from_folder(Path(mirror), name)))
    sources.append((f"address {https}", lambda name: from_address(https, name)))
    sources.append((f"Debian package {debian}", lambda name: from_folder(debian_folder(debian), name)))

    reasons = [] if mirror else ["mirror folder: ENGINEWORKS_MIRROR is not set"]
    for label, read in sources:
        try:
            contents = {name: checked(name, read(name), sha256) for name, sha256 in files.items()}
        except (OSError, ValueError, HTTPException, subprocess.SubprocessError) as error:
            reasons.append(f"{label}: {reason(error)}")
            continue
        with atomic.folder(out) as folder:
            for name, content in contents.items():
                (folder / name).write_bytes(content)
        print(f"{len(files)} files from {label}")
        return
    raise ValueError("no source has the data set:\n" + "\n".join(f"  - {line}" for line in reasons))


def checked(name: str, content: bytes, sha256: str) -> bytes:
    """Return `content` decompressed; `ValueError` where it is not what params.yaml promises."""
    try:
        plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{name}.gz: damaged: {error}") from None
    found = hashlib.sha256(plain).hexdigest()
    if found != sha256:
        raise ValueError(f"{name}: SHA-256 of the decompressed content is {found}, params.yaml wants {sha256}")
    return plain


def from_folder(folder: Path, name: str) -> bytes:
    """Read a file, or its gzipped form, anywhere below a folder."""
    for wanted in (name, f"{name}.gz"):
        found = sorted(folder.rglob(wanted))
        if found:
            return found[0].read_bytes()
    raise FileNotFoundError(f"neither {name} nor {name}.gz below {folder}")


def from_address(https: str, name: str) -> bytes:
    """Download a gzipped file."""
    with urllib.request.urlopen(f"{https}/{name}.gz", timeout=CONNECT_TIMEOUT_S) as answer:
        content: bytes = answer.read()
    return content


def debian_folder(package: str) -> Path:
    """Download and unpack a Debian package into our cache (nothing is installed); return the folder."""
    folder = settings.STATE / "cache" / "debian" / package
    if folder.exists():
        return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise FileNotFoundError("this machine has no apt-get and dpkg-deb")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        if not downloaded(package, aside):
            command(["apt-get", "update"], aside)  # the lists of a new machine are empty; needs root
            command(["apt-get", "download", package], aside)
        deb = next(Path(aside).glob("*.deb"))
        command(["dpkg-deb", "-x", deb.name, "unpacked"], aside)
        (Path(aside) / "unpacked").rename(folder)
    return folder


def downloaded(package: str, folder: str) -> bool:
    """Try `apt-get download` with the package lists as they are."""
    try:
        command(["apt-get", "download", package], folder)
    except ValueError:
        return False
    return True


def command(words: list[str], folder: str) -> None:
    """Run a command in a folder; `ValueError` carries its last line of complaint."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    if done.returncode:
        complaint = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ValueError(f"`{' '.join(words)}` ended with {done.returncode}: {complaint}")


def reason(error: Exception) -> str:
    """Say in one line why a source failed."""
    return " ".join(str(error).split()) or type(error).__name__
