"""Why a stage is stale, by DVC's own record in dvc.lock: knobs leaf by leaf, data, code, outputs, the command."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flows.graph import Graph, foreign

WORDS = {"deleted": "missing", "modified": "changed", "new": "new in dvc.yaml", "not in cache": "not in DVC's cache"}
ABSENT = "absent"
KINDS = ("never ran", "knob", "data", "code", "output", "command", "machine", "dvc")


@dataclass(frozen=True)
class Reason:
    """One thing that differs from what dvc.lock says: `knob train.target 0.9 -> 0.85`."""

    kind: str  # one of KINDS
    name: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Standing:
    """What the next run does with a stage: nothing (fresh), bring it up to date (stale), that or nothing (pending).

    `running` is a stage that a DVC process is at work on. `after` names the nearest stages that have to come first.
    """

    stage: str
    state: str
    after: tuple[str, ...]
    reasons: tuple[Reason, ...]


class View(Graph):
    """DVC's view of a pipeline in a checkout whose configuration is left as it is (`graph.settle` would write it)."""

    def opened(self) -> Any:
        """Return DVC's repository."""
        from dvc.repo import Repo

        return Repo(".", config={"core": {"no_scm": not Path(".git").exists()}})


def standings(repo: Any, stages: list[str]) -> list[Standing]:
    """Tell how each stage stands, given in an order in which what a stage reads comes first."""
    found: dict[str, Standing] = {}
    for stage in stages:
        found[stage] = standing(repo, stage, found)
    return list(found.values())


def standing(repo: Any, stage: str, found: dict[str, Standing]) -> Standing:
    """Tell how a stage stands, those before it being known: what they will write anew is no reason of its own."""
    from dvc.lock import LockError
    from networkx import descendants

    graph = repo.index.graph  # edges point from a stage to what it needs
    producers = [each for each in graph.successors(entry(repo, stage)) if each.addressing in found]
    ahead = [found[each.addressing] for each in producers if found[each.addressing].state != "fresh"]
    nearest = {name for each in ahead for name in (each.after if each.state == "pending" else (each.stage,))}
    covered = {each.addressing for name in nearest for each in descendants(graph, entry(repo, name))}
    after = tuple(name for name in found if name in nearest - covered)
    if any(each.state == "running" for each in ahead):  # DVC locks what is being written
        return Standing(stage, "pending", after, ())
    try:
        every = reasons(repo, stage)
    except LockError:
        return Standing(stage, "running", (), ())
    names = {each.stage for each in ahead}
    rewritten = [str(out) for each in producers if each.addressing in names for out in each.outs]
    own = [each for each in every if each.kind != "data" or not any(overlap(each.name, out) for out in rewritten)]
    state = "stale" if own else "pending" if after else "fresh"
    return Standing(stage, state, after, tuple(own))


def reasons(repo: Any, stage: str) -> list[Reason]:
    """Return everything that DVC holds against a stage; nothing where it is fresh."""
    parts = repo.status(targets=[stage]).get(stage, [])
    known = entry(repo, stage)
    elsewhere = foreign(known)
    found = [reason for part in parts for reason in explain(repo, known, part)]
    found += [Reason("machine", "", elsewhere)] if elsewhere else []
    if parts and not any(each.hash_info for each in (*known.deps, *known.outs)):
        missing = [each for each in found if each.kind in ("data", "code") and each.detail == WORDS["deleted"]]
        return [Reason("never ran"), *missing]
    return sorted(found, key=lambda each: KINDS.index(each.kind))


def entry(repo: Any, stage: str) -> Any:
    """Return DVC's object of a stage."""
    return next(each for each in repo.index.stages if each.addressing == stage)


def explain(repo: Any, stage: Any, part: str | dict[str, Any]) -> Iterator[Reason]:
    """Turn one part of `Repo.status` into reasons: `changed deps`, `changed outs`, or a sentence."""
    if isinstance(part, str):
        changed = part == "changed command"
        yield Reason("command", "", "changed in dvc.yaml") if changed else Reason("dvc", "", part)
        return
    listed = {str(each): each for each in (*stage.deps, *stage.outs)}
    for title, entries in part.items():
        for name, word in entries.items():
            if hasattr(listed[name], "read_params"):
                yield from knobs(stage.addressing, listed[name])
                continue
            kind = "output" if title == "changed outs" else "data" if is_data(repo, name) else "code"
            yield Reason(kind, name, counts(listed[name]) if word == "modified" else WORDS.get(word, word))


def is_data(repo: Any, name: str) -> bool:
    """Tell data from code: what a stage writes, and what people put below data/."""
    return name.startswith("data/") or any(overlap(name, str(out)) for out in repo.index.outs)


def overlap(first: str, second: str) -> bool:
    """Tell whether two paths are the same or one lies in the other."""
    a, b = PurePosixPath(first), PurePosixPath(second)
    return a.is_relative_to(b) or b.is_relative_to(a)


def knobs(address: str, params: Any) -> Iterator[Reason]:
    """Compare the knobs of dvc.lock with those of params.yaml, leaf by leaf."""
    pipeline = address.partition("@")[2].partition("-")[0]
    old, new = params.hash_info.value or {}, params.read_params()
    for section in params.params:
        for name, before, after in differences(section, old.get(section, ABSENT), new.get(section, ABSENT)):
            yield Reason("knob", name.removeprefix(f"pipelines.{pipeline}."), f"{shown(before)} -> {shown(after)}")


def differences(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Walk two trees of knobs; a list is walked, too, where its length is the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**new, **old}:
            yield from differences(f"{name}.{key}", old.get(key, ABSENT), new.get(key, ABSENT))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(f"{name}.{place}", before, after)
    elif old != new:
        yield name, old, new


def shown(value: Any) -> str:
    """Return a knob's value as people would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def counts(changed: Any) -> str:
    """Return how many files of a folder were added, removed and changed, where DVC's cache holds the old list."""
    from dvc_data.hashfile.build import build

    if not changed.hash_info:  # DVC calls that modified, too
        return WORDS["new"]
    if not changed.hash_info.isdir or not Path(changed.fs_path).is_dir():
        return WORDS["modified"]
    _, _, tree = build(
        changed.cache, changed.fs_path, changed.fs, changed.hash_name, ignore=changed.dvcignore, dry_run=True
    )
    new, before = listing(tree), changed.get_obj()
    if before is None:  # DVC keeps no list of a folder that no stage wrote, only its length
        grown = changed.meta.nfiles is not None and changed.meta.nfiles != len(new)
        return f"{changed.meta.nfiles} -> {len(new)} files" if grown else WORDS["modified"]
    old = listing(before)
    numbers = {"added": len(new.keys() - old.keys()), "removed": len(old.keys() - new.keys())}
    numbers["changed"] = sum(new[name] != old[name] for name in new.keys() & old.keys())
    return "files: " + ", ".join(f"{count} {word}" for word, count in numbers.items() if count)


def listing(tree: Any) -> dict[str, str]:
    """Return the hash of every file of a folder."""
    return {"/".join(parts): hash_info.value for parts, _, hash_info in tree}
