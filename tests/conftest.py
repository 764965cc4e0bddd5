"""One miniature run of the whole path, shared by every test that needs a live system."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import miniature

for name in [n for n in os.environ if n.startswith(("PREFECT_", "MLFLOW_", "ENGINEWORKS_", "DVC_"))]:
    del os.environ[name]
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Miniature:
    """A copy of the checkout in which the whole path ran once."""

    folder: Path
    environment: dict[str, str]
    output: str  # of the first `make run`

    def shell(self, line: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a shell line in the copy, without a terminal, its output read through a pipe."""
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {{ {line}; }} </dev/null 2>&1 | cat"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout_s,
        )

    def url(self, name: str) -> str:
        """Return the address of one of the copy's servers."""
        return f"http://127.0.0.1:{self.environment[f'ENGINEWORKS_{name}_PORT']}"


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Miniature]:
    """Run `make run` in a copy without `.git`, in a path with a space; leave its servers up for the session."""
    folder = tmp_path_factory.mktemp("whole path") / "copy"
    folder.mkdir()
    miniature.copy(folder)
    environment = miniature.environment(folder)
    system = Miniature(folder, environment, "")
    try:
        done = system.shell("make run", timeout_s=560)
        if done.returncode:
            logs = sorted((folder / ".state" / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
            tail = "\n".join(f"--- {log.name}\n" + log.read_text(errors="replace")[-1500:] for log in logs[-3:])
            pytest.fail(f"make run ended with {done.returncode}:\n{done.stdout}\n{tail}")
        yield Miniature(folder, environment, done.stdout)
    finally:
        system.shell("make down")
        shutil.rmtree(folder, ignore_errors=True)
