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
from tests.grown import Grown, add
from tests.grown import files as grown_files

PROMTOOL = miniature.ROOT / ".state" / "serving" / "prometheus" / "usr" / "bin" / "promtool"

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

    def key(self, kind: str = "realtime") -> str:
        """Return the header by which the door knows a client of this machine."""
        name = {"realtime": "local", "throughput": "bulk"}[kind]
        return (self.folder / ".state/door/keys" / kind / name).read_text().partition(": ")[2].strip()

    def url(self, name: str) -> str:
        """Return the address of one of the copy's servers."""
        return f"http://127.0.0.1:{self.environment[f'ENGINEWORKS_{name}_PORT']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what needs no live system, so that it runs while that comes up."""
    items.sort(key=lambda item: bool({"ran", "grown"} & set(getattr(item, "fixturenames", ()))))


@dataclass(frozen=True)
class Background:
    """What runs while quick tests go on."""

    ran: Future[Miniature]
    grown: Future[Grown]


@pytest.fixture(scope="session", autouse=True)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    """Start `make run` in a copy without `.git`, in a path with a space and an ä, if any test wants it.

    The additions run after it in a copy of their own. The servers of both stay up for the session.
    """
    wanted = {name for item in request.session.items if isinstance(item, pytest.Function) for name in item.fixturenames}
    if not {"ran", "grown"} & wanted:
        yield Background(Future(), Future())
        return
    systems = [system(tmp_path_factory.mktemp(name)) for name in ("whole päth", "grown")]
    with ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(whole_path, systems[0])
            yield Background(first, pool.submit(grow, first, systems[1]) if "grown" in wanted else Future())
        finally:
            pool.shutdown(cancel_futures=True)
            with ThreadPoolExecutor() as both:
                list(both.map(lambda each: each.shell("make down"), systems))
            for each in systems:
                shutil.rmtree(each.folder, ignore_errors=True)


def system(place: Path) -> Miniature:
    """Make a miniature copy in a folder."""
    (place / "copy").mkdir()
    miniature.copy(place / "copy")
    return Miniature(place / "copy", miniature.environment(place / "copy"), "")


def grow(first: Future[Miniature], second: Miniature) -> Grown:
    """Add to the second copy and run what was added."""
    before = grown_files(second.folder)
    add(second.folder, second.folder.parent / "mirror", first.result().folder)
    outputs = {}
    for pipeline in ("tones", "bought"):
        done = second.shell(f"make run PIPELINE={pipeline}", timeout_s=560)
        outputs[pipeline] = done.returncode, done.stdout
    return Grown(second.folder, second.environment, outputs, before, grown_files(second.folder))


def whole_path(system: Miniature) -> Miniature:
    """Run the whole path once."""
    done = system.shell("make run", timeout_s=560)
    if done.returncode:
        logs = sorted((system.folder / ".state" / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
        tail = "\n".join(f"--- {log.name}\n" + log.read_text(errors="replace")[-1500:] for log in logs[-3:])
        raise RuntimeError(f"make run ended with {done.returncode}:\n{done.stdout}\n{tail}")
    return replace(system, output=done.stdout)


@pytest.fixture(scope="session")
def ran(running: Background) -> Miniature:
    """Wait for the one miniature run of the whole path."""
    return running.ran.result()


@pytest.fixture(scope="session")
def grown(running: Background) -> Grown:
    """Wait for the run of the additions."""
    return running.grown.result()


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Debian's promtool, unpacked below .state/serving."""
    if not PROMTOOL.exists():
        folder = PROMTOOL.parents[2]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done = subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, capture_output=True, text=True)
        packages = list(folder.glob("*.deb"))
        if not packages:
            pytest.skip(f"no promtool: apt-get download prometheus: {done.stderr.strip()}")
        subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True)
        packages[0].unlink()
    return PROMTOOL
