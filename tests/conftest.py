"""One miniature run of the whole path, shared by every test that needs a live system."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tasks.settings import quiet
from tests import miniature

for name in [n for n in os.environ if n.startswith(("PREFECT_", "MLFLOW_", "ENGINEWORKS_", "DVC_"))]:
    del os.environ[name]
quiet()


@dataclass(frozen=True)
class Miniature:
    """A copy of the checkout in which the whole path ran once."""

    folder: Path
    environment: dict[str, str]
    output: str  # of the first `make run`

    def shell(self, line: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a shell line in the copy, without a terminal, its output read through a pipe."""
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {{ {line}\n}} </dev/null 2>&1 | cat"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout_s,
        )

    def url(self, name: str) -> str:
        """Return the address of one of the copy's servers."""
        return f"http://127.0.0.1:{self.environment[f'ENGINEWORKS_{name}_PORT']}"


@pytest.fixture(scope="session", autouse=True)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Miniature]]:
    """Start `make run` in a copy without `.git`, in a path with a space, if any test wants it; quick tests go on.

    Its servers stay up for the session.
    """
    if not any("ran" in item.fixturenames for item in request.session.items if isinstance(item, pytest.Function)):
        yield Future()
        return
    folder = tmp_path_factory.mktemp("whole päth") / "copy"
    folder.mkdir()
    miniature.copy(folder)
    system = Miniature(folder, miniature.environment(folder), "")
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(whole_path, system)
        finally:
            system.shell("make down")
            shutil.rmtree(folder, ignore_errors=True)


def whole_path(system: Miniature) -> Miniature:
    """Run the whole path once."""
    done = system.shell("make run", timeout_s=560)
    if done.returncode:
        logs = sorted((system.folder / ".state" / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
        tail = "\n".join(f"--- {log.name}\n" + log.read_text(errors="replace")[-1500:] for log in logs[-3:])
        raise RuntimeError(f"make run ended with {done.returncode}:\n{done.stdout}\n{tail}")
    return replace(system, output=done.stdout)


@pytest.fixture(scope="session")
def ran(running: Future[Miniature]) -> Miniature:
    """Wait for the one miniature run of the whole path."""
    return running.result()
