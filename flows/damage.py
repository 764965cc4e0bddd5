"""What a kill or a power cut leaves torn of DVC's own files.

Each damage below was tried on DVC 3.67: it ends every later command with exit code 255, runs a stage again without
need, or hands out wrong bytes as fresh ones.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from configobj import ConfigObj, ConfigObjError
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from tasks.settings import STATE

UNWRITTEN_S = 600.0  # Linux brings a file to the disk within 35 s: in a power cut only the youngest can tear
HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Damage:
    """A file or folder that DVC cannot work with."""

    path: Path
    what: str  # is wrong, and what is done
    rest: bytes | None = None  # what stays of it; None: it is moved away


class Owner(BaseModel):
    """A process that DVC's table of locks names."""

    model_config = ConfigDict(strict=True, extra="forbid")
    pid: PositiveInt
    cmd: str


class Locks(BaseModel):
    """DVC's table of locks, .dvc/tmp/rwlock: who writes and who reads which path."""

    model_config = ConfigDict(strict=True, extra="forbid")
    write: dict[str, Owner] = {}
    read: dict[str, list[Owner]] = {}


def damages(root: Path, restarted: bool) -> Iterator[Damage]:
    """Find all damage and change nothing; what only a power cut can tear is looked at where the machine restarted."""
    yield from configurations(root)
    yield from locks(root)
    yield from lockfile(root)
    yield from databases(root)
    yield from runs(root, restarted)
    if restarted:
        yield from objects(root)


def configurations(root: Path) -> Iterator[Damage]:
    """Find an unreadable .dvc/config.local, which the run writes anew; an unreadable .dvc/config is a `ValueError`."""
    for path in (root / ".dvc" / "config", root / ".dvc" / "config.local"):
        if path.exists() and (wrong := fault(path)):
            if path.name == "config":
                raise ValueError(f".dvc/config: {wrong}; bring it back: git checkout .dvc/config")
            yield Damage(path, f"{wrong}; removed, what you had added to it is in the backup")


def fault(path: Path) -> str:
    """Return why DVC cannot work with a configuration, or nothing."""
    try:
        content = ConfigObj(str(path), encoding="utf-8")
    except (ConfigObjError, UnicodeDecodeError) as error:
        return f"unreadable ({error})"
    if path.name == "config" and not content:
        return "empty"
    core = content.get("core", {})
    without_git = str(core.get("no_scm", "false")) if isinstance(core, dict) else core
    return "" if without_git.lower() in ("true", "false") else f"no_scm is '{without_git}'"


def locks(root: Path) -> Iterator[Damage]:
    """Find a torn table of locks, and locks whose owner is gone: DVC takes any living process of its number for it."""
    path = root / ".dvc" / "tmp" / "rwlock"
    if not path.exists():
        return
    try:
        table = Locks.model_validate_json(path.read_bytes())
    except ValidationError:
        yield Damage(path, "torn; removed")
        return
    read = {name: [owner for owner in owners if lives(owner)] for name, owners in table.read.items()}
    rest = Locks(
        write={name: owner for name, owner in table.write.items() if lives(owner)},
        read={name: owners for name, owners in read.items() if owners},
    )
    if rest != table:
        yield Damage(path, "names processes that have ended; released their locks", rest.model_dump_json().encode())


def lives(owner: Owner) -> bool:
    """Tell whether a lock's owner still runs; a process of its number that is no DVC is another one."""
    try:
        words = psutil.Process(owner.pid).cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's: cannot be told, so leave it alone
        return True
    return any(Path(word).name == "dvc" for word in words) or owner.cmd in " ".join(words)


def lockfile(root: Path) -> Iterator[Damage]:
    """Find a dvc.lock that is cut short or garbled; its whole entries stay, the others are in DVC's run cache."""
    path = root / "dvc.lock"
    content = path.read_bytes() if path.exists() else None
    if content is None or is_whole(parsed(content).get("stages")):
        return
    if re.search(rb"(?m)^<<<<<<<", content):
        raise ValueError("dvc.lock: holds a merge conflict; resolve it (git checkout --ours dvc.lock), then run again")
    blocks = re.split(rb"(?m)^(?= {0,2}(?:\S|\Z))", content)  # DVC indents the name of a stage by two spaces
    kept = [block for block in blocks if parsed(block) and is_whole(parsed(block))]
    what = f"torn; kept {len(kept)} whole entries, the others come back from the run cache"
    yield Damage(path, what, b"schema: '2.0'\nstages:\n" + b"".join(kept) if kept else None)


def parsed(content: bytes) -> dict[str, Any]:
    """Return DVC's YAML, every value as text; nothing where it is torn: the last line that DVC writes has an end."""
    try:
        found = yaml.load(content.decode(), yaml.CBaseLoader) if content.endswith(b"\n") else None
    except (UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def is_whole(stages: Any) -> bool:
    """Tell whether every entry has its outputs, which DVC writes last, and all that it writes of a file."""
    return isinstance(stages, dict) and all(
        isinstance(stage, dict)
        and stage.get("cmd")
        and stage.get("outs")
        and all(is_file(file) for file in [*stage.get("deps", []), *stage["outs"]])
        for stage in stages.values()
    )


def is_file(file: Any) -> bool:
    """Tell whether a file has its path, its full hash, its size and, where it is a folder, its number of files."""
    if not isinstance(file, dict):
        return False
    digest, size, count = (str(file.get(name, "")) for name in ("md5", "size", "nfiles"))
    folder = digest.endswith(".dir")
    return bool(file.get("path") and HASH.fullmatch(digest) and size.isdigit() and (count.isdigit() or not folder))


def databases(root: Path) -> Iterator[Damage]:
    """Find folders with a damaged SQLite database: DVC keeps hashes of files there."""
    for path in sorted((root / STATE / "dvc").rglob("*.db")):
        try:
            with closing(sqlite3.connect(path)) as connection:
                [verdict] = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError:  # locked by another DVC command, which works with it
            continue
        except sqlite3.DatabaseError as error:
            verdict = error
        if verdict != "ok":
            yield Damage(path.parent, f"{verdict}; removed, it is only a cache")


def runs(root: Path, restarted: bool) -> Iterator[Damage]:
    """Find what a kill left of the run cache, a temporary name or an empty folder, and what a power cut left torn."""
    for folder in sorted((root / ".dvc" / "cache" / "runs").glob("??/*/")):
        entries = sorted(folder.iterdir())
        torn = [
            path
            for path in entries
            if path.suffix == ".tmp" or (restarted and not is_whole({"": parsed(path.read_bytes())}))
        ]
        for path in torn if len(torn) < len(entries) else [folder]:
            yield Damage(path, "torn; removed")


def objects(root: Path) -> Iterator[Damage]:
    """Find torn files among the youngest of the cache: DVC trusts what is read-only and restores it as it is."""
    files = {path: path.stat().st_mtime for path in (root / ".dvc" / "cache" / "files" / "md5").glob("??/*")}
    youngest = max(files.values(), default=0.0)
    for path, modified in sorted(files.items()):
        name = path.parent.name + path.name
        if HASH.fullmatch(name) and modified > youngest - UNWRITTEN_S and md5(path) != name.removesuffix(".dir"):
            yield Damage(path, "torn; removed, its stage runs again")


def md5(path: Path) -> str:
    """Return the hash that DVC names a file by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
