"""Each damage to DVC's own files, on real DVC: what it does, that it is mended, that nothing else is touched."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows import repair as repair_module
from flows.graph import settle
from flows.repair import BACKUP, BOOT, repair
from tests.miniature import ROOT

CONFIG = "[core]\n    analytics = false\n    check_update = false\n    site_cache_dir = .state/dvc\n"
STAGES = """stages:
  first:
    cmd: echo first >> ran; cat in.txt in.txt > a.txt
    deps:
      - in.txt
    params:
      - first.times
    outs:
      - a.txt
  second:
    cmd: echo second >> ran; mkdir -p b; cp a.txt b/one; head -3 a.txt > b/two; echo 1 > m.json
    deps:
      - a.txt
    outs:
      - b
    metrics:
      - m.json:
          cache: false
"""
OUTPUTS = ("a.txt", "b/one", "b/two", "m.json")
BLOCKED = 255

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # DVC's own


def dvc(root: Path, *words: str) -> int:
    """Run DVC's own command line in this process; return its exit code."""
    from dvc.cli import main

    with contextlib.chdir(root):
        return int(main([*words, "--quiet"]))


def ran(root: Path) -> list[str]:
    """Return the stages that were executed since the last call."""
    path = root / "ran"
    words = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return words


def outputs(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in OUTPUTS}


def forget_outputs(root: Path) -> None:
    """Take all outputs away, as a checkout of another commit would."""
    shutil.rmtree(root / "b")
    (root / "a.txt").unlink()
    (root / "m.json").unlink()


def overwrite(path: Path, content: bytes) -> None:
    """Tear a file and leave its mode: DVC's cache is read-only."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def mended(root: Path, damaged: Path) -> Path:
    """Repair, which must find this damage and no other; return the backup of the file or folder."""
    content = damaged.read_bytes() if damaged.is_file() else None
    (line,) = repair(root)
    assert line.startswith(str(damaged.relative_to(root)))
    backup = root / line.rpartition("backup: ")[2]
    assert backup.parent == root / BACKUP and backup.exists()
    assert content is None or backup.read_bytes() == content
    assert repair(root) == []
    return backup


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy repository")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(CONFIG)
    settle(root)
    (root / "in.txt").write_text("hello\n" * 50)
    (root / "params.yaml").write_text("first:\n  times: 2\n")
    (root / "dvc.yaml").write_text(STAGES)
    assert dvc(root, "repro") == 0 and ran(root) == ["first", "second"]
    return root


@pytest.fixture
def toy(original: Path, tmp_path: Path) -> Path:
    """A copy of the toy with its cache, all fresh; its own site cache comes with the first command."""
    root = tmp_path / "a copy"
    shutil.copytree(original, root)
    shutil.rmtree(root / ".state")
    settle(root)
    return root


@pytest.fixture
def stale(toy: Path) -> Path:
    """A toy whose first stage must run again."""
    (toy / "in.txt").write_text("other\n" * 9)
    return toy


@pytest.fixture
def sleeper() -> Iterator[Callable[[str], int]]:
    """Give a function that starts a sleeping process of any name and returns its id."""
    started = []

    def start(name: str) -> int:
        started.append(subprocess.Popen([name, "60"], executable=shutil.which("sleep")))
        while not psutil.Process(started[-1].pid).cmdline():  # the system shows it a moment later
            time.sleep(0.01)
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()


def table(root: Path, *pids: int) -> Path:
    """Write DVC's table of locks as a killed `dvc repro` leaves it: an output written, an input read."""
    owners = [{"pid": pid, "cmd": "/x/dvc/__main__.py repro"} for pid in pids]
    path = root / ".dvc" / "tmp" / "rwlock"
    content = {"write": {str(root / "a.txt"): owners[0]}, "read": {str(root / "in.txt"): owners}}
    path.write_text(json.dumps(content))
    return path


def dead() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_where_all_is_well_nothing_is_done_and_at_once(toy: Path) -> None:
    assert repair(toy) == []
    before = {path: path.stat().st_mtime_ns for path in toy.rglob("*")}
    assert min(timeit.repeat(lambda: repair(toy), number=1, repeat=5)) < 0.05
    assert {path: path.stat().st_mtime_ns for path in toy.rglob("*")} == before
    code = "import sys; from pathlib import Path; from flows.repair import repair; repair(Path(sys.argv[1]))"
    code += "; assert not {'dvc', 'prefect', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(toy)], check=True)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 300, bytes(range(256)), b'{"write": {"/x/a.txt": {"pid": 1, "cm', b'{"write": []}'],
    ids=["empty", "zeros", "binary", "half", "wrong shape"],
)
def test_a_torn_table_of_locks(stale: Path, content: bytes) -> None:
    path = stale / ".dvc" / "tmp" / "rwlock"
    path.write_bytes(content)
    assert dvc(stale, "repro") == BLOCKED
    mended(stale, path)
    assert dvc(stale, "repro") == 0 and ran(stale) == ["first", "second"]


def test_a_lock_whose_number_another_program_got(stale: Path, sleeper: Callable[[str], int]) -> None:
    path = table(stale, sleeper("sleep"), dead())
    assert dvc(stale, "repro") == BLOCKED
    mended(stale, path)
    assert json.loads(path.read_text()) == {"write": {}, "read": {}}
    assert dvc(stale, "repro") == 0 and ran(stale) == ["first", "second"]


def test_a_lock_of_a_process_nobody_waited_for(stale: Path) -> None:
    process = subprocess.Popen(["true"])
    while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    path = table(stale, process.pid)
    assert dvc(stale, "repro") == BLOCKED
    mended(stale, path)
    process.wait()
    assert dvc(stale, "repro") == 0


def test_a_living_dvc_keeps_its_locks(stale: Path, sleeper: Callable[[str], int]) -> None:
    alive = sleeper("dvc")
    path = table(stale, alive)
    before = path.read_bytes()
    assert repair(stale) == [] and path.read_bytes() == before
    path = table(stale, alive, dead())
    mended(stale, path)
    assert [owner["pid"] for owner in json.loads(path.read_text())["read"][str(stale / "in.txt")]] == [alive]
    assert dvc(stale, "repro") == BLOCKED


def test_a_real_dvc_is_left_alone_while_it_runs_and_forgotten_once_killed(stale: Path) -> None:
    (stale / "dvc.yaml").write_text(STAGES.replace("echo first >> ran;", "echo first >> ran; sleep 60;"))
    child = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q"], cwd=stale, start_new_session=True)
    path = stale / ".dvc" / "tmp" / "rwlock"
    try:
        while not (stale / "ran").exists():
            assert child.poll() is None
            time.sleep(0.05)
        assert json.loads(path.read_text())["write"] and repair(stale) == []
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    mended(stale, path)
    (stale / "dvc.yaml").write_text(STAGES)
    ran(stale)
    assert dvc(stale, "repro") == 0 and ran(stale) == ["first", "second"]


@pytest.mark.parametrize("name", ["lock", "rwlock.lock", "btime"])
def test_what_a_kill_leaves_of_the_other_lock_files_blocks_nobody(stale: Path, name: str) -> None:
    (stale / ".dvc" / "tmp" / name).write_bytes(bytes(range(256)))
    assert repair(stale) == []
    assert dvc(stale, "repro") == 0


def after(text: str, mark: str, more: int = 0) -> bytes:
    """Return a text up to the end of a mark and some characters more."""
    return text[: text.index(mark) + len(mark) + more].encode()


CUTS: dict[str, Callable[[str], bytes]] = {
    "empty": lambda text: b"",
    "zeros": lambda text: b"\0" * len(text),
    "binary": lambda text: bytes(range(256)),
    "zeros at the end": lambda text: text[:400].encode() + b"\0" * (len(text) - 400),
    "zeros in the middle": lambda text: text[:40].encode() + b"\0" * 100 + text[140:].encode(),
    "a hash cut": lambda text: after(text, "outs:\n    - path: a.txt\n      hash: md5\n      md5: ", 8),
    "a hash missing": lambda text: after(text, "outs:\n    - path: a.txt\n      hash: md5\n"),
    "no outputs": lambda text: after(text, "first.times: 2\n"),
    "outputs empty": lambda text: after(text, "    outs:\n"),
    "a size cut": lambda text: after(text, "      size: 6"),
    "a name only": lambda text: after(text, "  second:\n"),
    "a name cut": lambda text: after(text, "  seco"),
    "half a command": lambda text: after(text, "  second:\n    cmd: echo second"),
    "the head only": lambda text: after(text, "stages:\n"),
    "the first line only": lambda text: after(text, "schema: '2.0'\n"),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_torn_lock_file_comes_back_whole_without_a_stage_running(toy: Path, cut: str) -> None:
    path, known = toy / "dvc.lock", outputs(toy)
    whole = path.read_bytes()
    path.write_bytes(CUTS[cut](whole.decode()))
    assert path.read_bytes() != whole
    mended(toy, path)
    assert dvc(toy, "repro") == 0 and ran(toy) == []
    assert yaml.safe_load(path.read_bytes()) == yaml.safe_load(whole)
    if cut != "zeros in the middle":  # there the first stage comes back behind the second
        assert path.read_bytes() == whole
    assert outputs(toy) == known


@pytest.mark.parametrize("cut", ["empty", "zeros", "binary", "zeros at the end", "outputs empty", "a name only"])
def test_a_torn_lock_file_blocks_dvc(toy: Path, cut: str) -> None:
    (toy / "dvc.lock").write_bytes(CUTS[cut]((toy / "dvc.lock").read_text()))
    assert dvc(toy, "repro") == BLOCKED


def test_a_lock_file_with_half_a_hash_makes_dvc_run_a_stage_again(toy: Path) -> None:
    (toy / "dvc.lock").write_bytes(CUTS["a hash cut"]((toy / "dvc.lock").read_text()))
    assert dvc(toy, "repro") == 0 and ran(toy) == ["first"]


def test_a_lock_file_cut_at_any_byte_keeps_every_whole_entry_and_no_other(toy: Path) -> None:
    from dvc.repo import Repo

    path = toy / "dvc.lock"
    whole = path.read_bytes()
    stages = yaml.safe_load(whole)["stages"]
    ends = {"first": whole.index(b"  second:"), "second": len(whole)}
    repair(toy)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        repair(toy)
        kept: dict[str, Any] = yaml.safe_load(path.read_bytes())["stages"] if path.exists() else {}
        assert {name for name, end in ends.items() if end <= size} <= set(kept)
        for name, entry in kept.items():
            lacks = len(stages[name]["outs"]) - len(entry["outs"])  # cut between two outputs: DVC sees it as changed
            assert entry | {"outs": entry["outs"] + stages[name]["outs"][-lacks:] * (lacks > 0)} == stages[name]
            assert not lacks or whole[:size].rstrip(b" ").endswith(b"nfiles: 2\n")
        if size % 31 == 0:
            with contextlib.chdir(toy), Repo(".") as repo:
                assert set(repo.status()) >= stages.keys() - kept.keys()


def test_the_lock_file_of_this_checkout_is_whole(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.lock", tmp_path)
    assert repair(tmp_path) == []


def test_a_lock_file_cut_between_two_outputs_is_seen_by_dvc_itself(toy: Path) -> None:
    path = toy / "dvc.lock"
    whole = path.read_bytes()
    path.write_bytes(after(whole.decode(), "nfiles: 2\n"))
    assert repair(toy) == []
    assert dvc(toy, "repro") == 0 and ran(toy) == [] and path.read_bytes() == whole


def test_a_merge_conflict_is_left_to_people(toy: Path) -> None:
    path = toy / "dvc.lock"
    path.write_text(path.read_text().replace("  second:", "<<<<<<< HEAD\n  second:"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"dvc\.lock: holds a merge conflict"):
        repair(toy)
    assert path.read_bytes() == before


def test_a_lock_file_that_is_absent_or_stale_is_no_damage(stale: Path) -> None:
    path = stale / "dvc.lock"
    path.write_text("# a note\n" + path.read_text().replace("  second:", "  gone@toy:"))
    before = path.read_bytes()
    assert repair(stale) == [] and path.read_bytes() == before
    path.unlink()
    assert repair(stale) == []


def test_a_lock_file_that_a_living_dvc_is_just_writing_is_no_damage(toy: Path) -> None:
    path = toy / "dvc.lock"
    whole = path.read_bytes()
    with (toy / ".dvc" / "tmp" / "lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        path.write_bytes(whole[:300])

        def finish() -> None:
            path.write_bytes(whole)
            fcntl.flock(file, fcntl.LOCK_UN)

        timer = threading.Timer(0.3, finish)
        timer.start()
        assert repair(toy) == []
        timer.join()
    assert path.read_bytes() == whole and not (toy / BACKUP).exists()


def test_nothing_is_mended_while_another_dvc_holds_its_lock(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair_module, "BUSY_TIMEOUT_S", 0.2)
    (toy / "dvc.lock").write_bytes(b"")
    with (toy / ".dvc" / "tmp" / "lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"\.dvc/tmp/lock: another DVC command is at work"):
            repair(toy)
    assert (toy / "dvc.lock").read_bytes() == b""
    mended(toy, toy / "dvc.lock")


@pytest.mark.parametrize("folder", ["hashes/local", "links"])
@pytest.mark.parametrize("damage", ["zeros", "half", "all but the head"])
def test_a_damaged_database(toy: Path, folder: str, damage: str) -> None:
    assert dvc(toy, "repro") == 0
    (path,) = (toy / ".state" / "dvc").glob(f"repo/*/{folder}/cache.db")
    whole = path.read_bytes()
    contents = {
        "zeros": b"\0" * len(whole),
        "half": whole[: len(whole) // 2],
        "all but the head": whole[:4096] + b"\xff" * (len(whole) - 4096),
    }
    path.write_bytes(contents[damage])
    assert dvc(toy, "repro") == BLOCKED
    mended(toy, path.parent)
    assert dvc(toy, "repro") == 0 and ran(toy) == []


def entry(root: Path, stage: str) -> Path:
    """Return a stage's entry in the run cache."""
    paths = [path for path in (root / ".dvc" / "cache" / "runs").glob("??/*/*") if f"echo {stage}" in path.read_text()]
    (path,) = paths
    return path


@pytest.mark.parametrize("cut", ["binary", "no outputs", "gone"])
def test_a_torn_entry_of_the_run_cache_that_blocks(toy: Path, cut: str) -> None:
    path = entry(toy, "first")
    text = path.read_text()
    path.write_bytes(bytes(range(256)) if cut == "binary" else text[: text.index("outs:")].encode())
    if cut == "gone":  # DVC removes what it cannot read, and a kill then leaves an empty folder
        path.unlink()
    (toy / "dvc.lock").unlink()
    known = outputs(toy)
    assert dvc(toy, "repro") == BLOCKED
    mended(toy, path.parent)
    assert dvc(toy, "repro") == 0 and ran(toy) == ["first"]
    assert outputs(toy) == known and path.read_text() == text


def test_an_entry_of_the_run_cache_left_under_its_temporary_name(toy: Path) -> None:
    repair(toy)  # the machine is known: a kill alone leaves this
    text = entry(toy, "first").read_text()
    path = entry(toy, "first").with_name(".x1y2.tmp")
    path.write_text(text[: text.index("outs:")])
    (toy / "dvc.lock").unlink()
    (toy / "a.txt").unlink()
    assert dvc(toy, "repro") == BLOCKED
    mended(toy, path)
    assert dvc(toy, "repro") == 0 and ran(toy) == []


def cached(root: Path, out: str) -> Path:
    """Return the file of an output in DVC's cache."""
    entries = yaml.safe_load((root / "dvc.lock").read_text())["stages"].values()
    (digest,) = [file["md5"] for each in entries for file in each["outs"] if file["path"] == out]
    return root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


@pytest.mark.parametrize("rest", [b"", b"hello\nhel"], ids=["empty", "cut"])
def test_a_torn_file_of_the_cache_is_not_restored(toy: Path, tmp_path: Path, rest: bytes) -> None:
    known = outputs(toy)
    overwrite(cached(toy, "a.txt"), rest)
    forget_outputs(toy)
    unrepaired = shutil.copytree(toy, tmp_path / "unrepaired")
    assert dvc(unrepaired, "repro") == 0 and dvc(unrepaired, "status") == 0
    assert outputs(unrepaired)["a.txt"] == rest, "DVC takes it for fresh"
    mended(toy, cached(toy, "a.txt"))
    assert dvc(toy, "repro") == 0 and outputs(toy) == known
    assert set(ran(toy)) == {"first"}


def test_a_torn_folder_of_the_cache_does_not_make_its_stage_run_for_ever(toy: Path, tmp_path: Path) -> None:
    overwrite(cached(toy, "b"), b'[{"md5": "39')
    unrepaired = shutil.copytree(toy, tmp_path / "unrepaired")
    for _ in range(2):
        assert dvc(unrepaired, "repro") == 0 and ran(unrepaired) == ["second"]
    mended(toy, cached(toy, "b"))
    assert dvc(toy, "repro") == 0 and ran(toy) == ["second"]
    assert dvc(toy, "repro") == 0 and ran(toy) == []


def test_the_cache_is_read_once_after_each_start_of_the_machine_and_only_its_youngest(toy: Path) -> None:
    assert repair(toy) == []
    path = cached(toy, "a.txt")
    overwrite(path, b"")
    assert repair(toy) == [], "a kill tears no file that was written: no need to look"
    (toy / BOOT).write_text("an earlier start of the machine\n")
    other = cached(toy, "m.json")
    os.utime(path, (time.time(), other.stat().st_mtime - 3600))
    assert repair(toy) == [], "what is older than the youngest by an hour was on the disk"
    (toy / BOOT).write_text("an earlier start of the machine\n")
    os.utime(path, (time.time(), other.stat().st_mtime))
    mended(toy, path)


@pytest.mark.parametrize("rest", [b"[co", b"[core]\n    no_", b"[core]\n    no_scm = Tr", b"\0\0\0", b"\xff\xfe\xfd"])
def test_a_torn_local_configuration_is_written_anew(toy: Path, rest: bytes) -> None:
    path = toy / ".dvc" / "config.local"
    whole = path.read_bytes()
    path.write_bytes(rest)
    assert dvc(toy, "status") != 0
    mended(toy, path)
    settle(toy)
    assert path.read_bytes() == whole and dvc(toy, "repro") == 0 and ran(toy) == []


@pytest.mark.parametrize("rest", [b"", b"[co", b"\0\0\0"], ids=["empty", "cut", "zeros"])
def test_a_torn_configuration_is_named(toy: Path, rest: bytes) -> None:
    (toy / ".dvc" / "config").write_bytes(rest)
    with pytest.raises(ValueError, match=r"\.dvc/config: .*git checkout \.dvc/config"):
        repair(toy)


def test_a_power_cut_that_tears_all_at_once(toy: Path) -> None:
    assert dvc(toy, "repro") == 0
    known = outputs(toy)
    (database,) = (toy / ".state" / "dvc").glob("repo/*/links/cache.db")
    for path in (toy / ".dvc" / "config.local", toy / ".dvc" / "tmp" / "rwlock", toy / "dvc.lock", database):
        path.write_bytes(b"\0" * 99)
    lines = repair(toy)
    assert [line.partition(":")[0] for line in lines[:3]] == [".dvc/config.local", ".dvc/tmp/rwlock", "dvc.lock"]
    assert len(lines) == len(list((toy / BACKUP).iterdir())) == 4
    settle(toy)
    assert dvc(toy, "repro") == 0 and ran(toy) == [] and outputs(toy) == known
    (toy / "dvc.lock").write_bytes(b"")
    mended(toy, toy / "dvc.lock")
    assert len(list((toy / BACKUP).glob("dvc.lock.*"))) == 2, "no backup takes the place of another"
