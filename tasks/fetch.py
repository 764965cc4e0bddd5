"""fetch: bring a data set here from the first source that has it, each file checked by its SHA-256."""

import contextlib
import errno
import gzip
import io
import os
import shutil
import subprocess
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks import atomic, debian, packing
from tasks.digest import sha256
from tasks.params import file_name

CONNECT_TIMEOUT_S = 5
OWN = (".gz", ".tar", ".tgz")  # how an address ends that is a file's own, not a folder's
OUR_FAULT = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # no source can be blamed for
FileName = Annotated[str, AfterValidator(lambda name: file_name(name, 120))]  # names that others chose
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Sources(BaseModel):
    """Where a data set may come from, tried in this order; each may hold a file as it is or gzipped (`.gz`).

    `https` is the address of a folder, or of the only file. Of a Debian package `PACKAGE.tar` is all of its content.
    `folder` is one of this machine, packed into a tar whose bytes depend on names and contents only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    https: Annotated[str, Field(pattern=r"^https://\S+$")] | None = None
    debian: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]+$")] | None = None
    folder: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def some(self) -> "Sources":
        """Refuse a data set that comes from nowhere."""
        if not (self.https or self.debian or self.folder):
            raise ValueError("names no source; write https, debian or folder")
        return self


def fetch(out: Path, *, sources: Sources, files: Annotated[dict[FileName, Sha256], Field(min_length=1)]) -> None:
    """Leave `files` (name: SHA-256 of the decompressed content) in `out`, decompressed.

    The folder `ENGINEWORKS_MIRROR` is asked first, then the sources. `ValueError` names every source and why it failed;
    `out` appears whole or not at all.
    """
    reasons = [] if os.environ.get("ENGINEWORKS_MIRROR") else ["mirror folder: ENGINEWORKS_MIRROR is not set"]
    for label, take in ways(sources, alone=len(files) == 1):
        try:
            with atomic.folder(out) as folder:
                for name, promised in files.items():
                    take(name, folder / name)
                    check(folder / name, promised)
        except (OSError, ValueError, HTTPException, subprocess.SubprocessError) as error:
            if getattr(error, "errno", None) in OUR_FAULT:
                raise
            reasons.append(f"{label}: {reason(error)}")
            continue
        print(f"{len(files)} file{'s' if len(files) > 1 else ''} from {label}")
        return
    raise ValueError("no source has the data set:\n" + "\n".join(f"  - {line}" for line in reasons))


def ways(sources: Sources, alone: bool) -> Iterator[tuple[str, Callable[[str, Path], None]]]:
    """Yield each source's name and how to take a file from it to a path."""
    if mirror := os.environ.get("ENGINEWORKS_MIRROR"):
        yield f"mirror folder {mirror}", partial(from_folder, Path(mirror))
    if sources.https:
        yield f"address {sources.https}", partial(from_address, sources.https, alone and sources.https.endswith(OWN))
    if sources.debian:
        yield f"Debian package {sources.debian}", partial(from_debian, sources.debian)
    if sources.folder:
        yield f"folder {sources.folder}", lambda _, to: packing.pack(Path(sources.folder or ""), to)


def check(path: Path, promised: str) -> None:
    """Raise `ValueError` where a file is not what params.yaml promises."""
    found = sha256(path)
    if found != promised:
        raise ValueError(f"{path.name}: SHA-256 of the decompressed content is {found}, params.yaml wants {promised}")


def from_folder(folder: Path, name: str, to: Path) -> None:
    """Copy a file, or its gzipped form, from anywhere below a folder."""
    for wanted in (name, f"{name}.gz"):
        found = sorted(folder.rglob(wanted))
        if found:
            with found[0].open("rb") as file:
                return write(file, to)
    raise FileNotFoundError(f"neither {name} nor {name}.gz below {folder}")


def from_address(https: str, own: bool, name: str, to: Path) -> None:
    """Download a file from its own address, or gzipped from a folder's."""
    with urllib.request.urlopen(https if own else f"{https}/{name}.gz", timeout=CONNECT_TIMEOUT_S) as answer:
        write(answer, to)


def from_debian(package: str, name: str, to: Path) -> None:
    """Take a file, or its gzipped form, from anywhere in a Debian package, or all that the package holds."""
    with debian.content(package) as content:
        if name == f"{package}.tar":
            return write(content, to)
        with debian.member(content, (name, f"{name}.gz")) as file:
            write(file, to)


def write(source: IO[bytes], to: Path) -> None:
    """Write a stream to a file, decompressed where it is gzipped; `ValueError` where it is damaged."""
    stream: Any = source
    buffered: Any = io.BufferedReader(stream)
    try:
        with contextlib.ExitStack() as stack, to.open("wb") as file:
            if buffered.peek(2)[:2] == b"\x1f\x8b":
                buffered = stack.enter_context(gzip.open(buffered))
            shutil.copyfileobj(buffered, file, 1 << 20)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{to.name}.gz: damaged: {error}") from None


def reason(error: Exception) -> str:
    """Say in one line why a source failed."""
    return " ".join(str(error).split()) or type(error).__name__
