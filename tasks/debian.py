"""A Debian package's content, read where it lies: nothing is installed, nothing is unpacked."""

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tasks import settings

TIMEOUT_S = 600


@contextmanager
def content(package: str) -> Iterator[IO[bytes]]:
    """Give all that a package installs, as a stream in tar format; downloads it into our cache where it isn't there."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive(package)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout
        process.stdout.close()  # who has what he wants need not read on


@contextmanager
def member(content: IO[bytes], names: Sequence[str]) -> Iterator[IO[bytes]]:
    """Give the first file of one of the names; `FileNotFoundError` where there is none."""
    with tarfile.open(fileobj=content, mode="r|") as tar:
        for each in tar:
            if each.isfile() and Path(each.name).name in names:
                file = tar.extractfile(each)
                assert file is not None
                yield file
                return
    raise FileNotFoundError(f"neither {' nor '.join(names)} in it")


def archive(package: str) -> Path:
    """Return a package's .deb in our cache; `ValueError` or `OSError` say why it can't be had."""
    folder = settings.STATE / "cache" / "packages"
    for found in folder.glob(f"{package}_*.deb"):
        return found
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise FileNotFoundError("this machine has no apt-get and dpkg-deb")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        if not downloaded(package, aside):
            command(["apt-get", "update"], aside)  # the lists of a new machine are empty; needs root
            command(["apt-get", "download", package], aside)
        deb = next(Path(aside).glob("*.deb"))
        return deb.rename(folder / deb.name)


def downloaded(package: str, folder: str) -> bool:
    """Try `apt-get download` with the package lists as they are."""
    try:
        command(["apt-get", "download", package], folder)
    except ValueError:
        return False
    return True


def command(words: list[str], folder: str) -> None:
    """Run a command in a folder; `ValueError` carries its last line of complaint."""
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        complaint = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ValueError(f"`{' '.join(words)}` ended with {done.returncode}: {complaint}")
