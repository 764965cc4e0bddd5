"""What DVC knows: the stages of a pipeline in order, and which of them are stale."""

import importlib
import logging
import time
from pathlib import Path
from typing import Any

from flows import drift, gate, incoming
from tasks.command import check
from tasks.document import load
from tasks.params import checked, read
from tasks.settings import STATE

GRAPH = Path("dvc.yaml")
LAST = "record"
PATIENCE_S, PERIOD_S = 60.0, 0.5  # for somebody else's DVC to end


class Graph:
    """DVC's own view of one pipeline; `reload` after a stage ran."""

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        self.repo: Any = None
        self.known: dict[str, Any] = {}  # kept, as DVC parses all its files anew after each question
        self.reload()

    def reload(self) -> None:
        """Read dvc.yaml, dvc.lock and params.yaml afresh."""
        logging.getLogger("dvc").setLevel(logging.ERROR)  # its warnings would run across our lines
        if self.repo is not None:
            self.repo.close()
        self.repo = self.opened()
        self.known = {each.addressing: each for each in self.repo.index.stages}

    def opened(self) -> Any:
        """Return DVC's repository."""
        from dvc.repo import Repo

        return Repo(".")

    def stages(self) -> list[str]:
        """Return the addresses (`train@fashion`) of all stages up to record, upstream first."""
        import networkx

        graph = self.repo.index.graph  # edges point from a stage to what it needs
        last = next(stage for stage in graph if stage.addressing == f"{LAST}@{self.pipeline}")
        needed = networkx.descendants(graph, last) | {last}
        ordered = networkx.topological_sort(graph.subgraph(needed).reverse())
        return [stage.addressing for stage in ordered]

    def is_fresh(self, stage: str) -> bool:
        """Tell whether a stage's outputs, dependencies and knobs are all as dvc.lock says.

        What a killed run left at work on them ends by itself within seconds (tasks/guard.py): it is waited for.
        """
        from dvc.lock import LockError

        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return not self.repo.status(targets=[stage])
            except LockError as error:
                if time.monotonic() > deadline:
                    raise ValueError(f"{stage}: DVC is at work on it elsewhere: {error}") from None
                time.sleep(PERIOD_S)

    def foreign(self, stage: str) -> str | None:
        """Say why a stage that DVC calls fresh counts nothing on this machine; None where it counts."""
        return foreign(self.known[stage])

    def takes_gpu(self, stage: str) -> bool:
        """Tell whether a stage takes all of a GPU where there is one, as its `meta` in dvc.yaml says."""
        return bool((self.known[stage].meta or {}).get("gpu"))

    def close(self) -> None:
        """Let go of DVC's files."""
        self.repo.close()


def foreign(stage: Any) -> str | None:
    """Ask a stage's module, where it has an opinion, whether its output is about this machine."""
    tell = getattr(importlib.import_module(f"tasks.{stage.addressing.partition('@')[0]}"), "foreign", None)
    if tell is None:
        return None
    (out,) = (out for out in stage.outs if out.fs_path.endswith(".json"))
    reason: str | None = tell(Path(out.fs_path)) if out.exists else None
    return reason


def preview(pipeline: str) -> int:
    """Check every knob of a pipeline and return the number of its stages, by the files alone: DVC takes seconds.

    `ValueError` names what is wrong in params.yaml or dvc.yaml.
    """
    params = read()
    stages = lawful(pipeline, params)
    incoming.check(pipeline)
    return sum(len(params["backends"]) if "matrix" in stage else 1 for stage in stages.values())


def lawful(pipeline: str, params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return dvc.yaml's stages, once none of them would refuse a knob of the pipeline, nor would deploy or monitor."""
    stages: dict[str, dict[str, Any]] = checked(
        dict[str, dict[str, Any]], load(GRAPH, "`stages`").get("stages"), f"{GRAPH}: stages"
    )
    check(pipeline, list(stages), ["deploy", "monitor"], params)
    gate.knobs(pipeline, params)
    drift.knobs(pipeline, params)
    return stages


def settle(root: Path) -> None:
    """Make DVC work in a copy without `.git` and in one with it, and a queued experiment use this checkout's state.

    DVC's configuration is ASCII: elsewhere the state's place stays relative, and DVC's queue does not work.
    """
    from dvc.config import Config

    state = str(root.resolve() / STATE / "dvc")
    wanted = {"no_scm": not (root / ".git").exists(), "site_cache_dir": state if state.isascii() else None}
    config = Config(str(root / ".dvc"), validate=False)
    core = config.load_one("local").get("core", {})
    if (bool(core.get("no_scm")), core.get("site_cache_dir")) == tuple(wanted.values()):
        return
    with config.edit("local") as changed:
        kept = {name: value for name, value in changed.get("core", {}).items() if name not in wanted}
        changed["core"] = kept | {name: value for name, value in wanted.items() if value is not None}
