"""deploy: put a package on the live server, prove it there and leave a receipt; or leave all as it was and say why."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State
from tritonclient.utils import InferenceServerException

from flows import golden, live, promotion, receipt, repository
from flows.addresses import address
from flows.gate import Knobs, classes, gate, knobs, package, read_json
from flows.refusal import Refused
from tasks import budget
from tasks.package import VERSION, modality, public

UNCHANGED = "Unchanged"  # state of a deploy that found its package live


@flow(name="deploy", flow_run_name="deploy-{pipeline}")
def deploy(pipeline: str) -> State[dict[str, Any]]:
    """Put a pipeline's package on the live server; the state is Deployed, Unchanged, or Refused with every reason.

    The first two carry the receipt; Refused carries `{"refused": [reason, ...]}` and what was live serves on.
    """
    try:
        left, name = go_live(pipeline)
    except Refused as refusal:
        return Completed(name="Refused", message=str(refusal), data={"refused": refusal.reasons})
    served = f"{left['engine']} is live as version {left['version']}"
    return Completed(name=name, message=served, data=left)


def go_live(pipeline: str) -> tuple[dict[str, Any], str]:
    """Return the receipt of what is live now, this package, proved and scored; and Deployed, or Unchanged where it was.

    Raises `Refused` where a gate does not let it pass. Where this very package is live and answers, nothing is loaded.
    """
    facts, bounds = gate(pipeline), knobs(pipeline)
    with alone():
        client = live.connect()
        batch = golden.read(package(pipeline), pipeline, facts["engine"], classes(pipeline))
        left = receipt.read(pipeline)
        same = left is not None and left["sha256"] == facts["sha256"]
        name = UNCHANGED
        if left is None or not same or not is_live(live.Served(client, pipeline), batch, bounds.max_score_difference):
            left, name = replace(client, pipeline, batch, bounds, facts), "Deployed"
    from tasks.record import promote

    promote(pipeline, left)  # also where nothing was deployed: an emptied MLflow gets its champion back
    return left, name


@contextmanager
def alone() -> Iterator[None]:
    """Hold the one lock of all deploys: two loads at once can hang the server."""
    receipt.FOLDER.mkdir(parents=True, exist_ok=True)
    with (receipt.FOLDER.parent / "deploy.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{file.name}: another deploy is under way; wait for its end") from None
        yield


def is_live(served: live.Served, batch: golden.Golden, bound: float) -> bool:
    """Tell whether the live server gives the golden answers now."""
    try:
        golden.prove(served, batch, bound)
    except (InferenceServerException, ValueError):
        return False
    return True


def replace(client: Any, pipeline: str, batch: golden.Golden, bounds: Knobs, facts: dict[str, Any]) -> dict[str, Any]:
    """Take the live version's place, proved and judged first, and return the receipt; on any error put all back."""
    before, previous = repository.configurations(pipeline), repository.live_version(pipeline)
    version = max(repository.versions(pipeline), default=0) + 1
    retire(client, pipeline, {v for v in repository.versions(pipeline) if v > previous})  # left by a killed deploy
    test = promotion.test_set(pipeline)
    try:
        stage(client, pipeline, version)
        candidate = live.Served(client, pipeline, version)
        prove(candidate, batch, bounds.max_score_difference)
        answers = score(candidate, test)
        against = promotion.champion(client, pipeline, test)
        compared = promotion.challenge(answers, against, test, bounds.max_champion_drop)
        switch(client, pipeline, version)
        proof = prove(live.Served(client, pipeline), batch, bounds.max_score_difference)
    except BaseException:
        restore(client, pipeline, before, version)
        raise
    retire(client, pipeline, repository.versions(pipeline) - {previous, version})
    served = promotion.served(pipeline, facts["engine"], answers, test)
    evaluated = read_json(Path("metrics", "evaluate", f"{pipeline}.json"))
    left = {"pipeline": pipeline, "version": version, "sha256": facts["sha256"], "engine": facts["engine"]}
    left |= {"served_accuracy": served["accuracy"], **{name: served[name] for name in ("n", "low", "high")}, **compared}
    left |= {"golden": proof, "budget": budget.table(evaluated, facts["engine"], served)}
    left |= {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    left |= {"url": f"http://{address('TRITON_HTTP')}/v2/models/{pipeline}/infer"}
    receipt.write(pipeline, left, test.sha256, answers)
    return left


@task(cache_policy=NO_CACHE)
def stage(client: Any, pipeline: str, version: int) -> None:
    """Load a new version of the parts beside the live one."""
    repository.stage(package(pipeline) / "repository", pipeline, version)
    for model in repository.names(pipeline, version):
        live.load(client, model)


@task(cache_policy=NO_CACHE)
def prove(served: live.Served, batch: golden.Golden, bound: float) -> dict[str, Any]:
    """Replay the golden batch."""
    return golden.prove(served, batch, bound)


@task(cache_policy=NO_CACHE)
def switch(client: Any, pipeline: str, version: int) -> None:
    """Move all requests to a version that is loaded and proved."""
    repository.point(package(pipeline) / "repository", pipeline, version)
    for model in public(pipeline):
        live.load(client, model)


@task(cache_policy=NO_CACHE)
def score(served: live.Served, test: promotion.TestSet) -> list[str]:
    """Classify the whole test set through the server."""
    return served.classify_all(test.samples)[0]


def restore(client: Any, pipeline: str, before: repository.Files, version: int) -> None:
    """Answer clients by the version that was live, or not at all where there was none, and take the new one away."""
    repository.point_back(pipeline, before, version)
    for path, text in before.items():
        bring = live.unload if text is None else live.load
        bring(client, path.parent.name)
    retire(client, pipeline, {version})


def retire(client: Any, pipeline: str, versions: set[int]) -> None:
    """Take versions off the server and off the disk."""
    for version in versions:
        for model in repository.names(pipeline, version):
            live.unload(client, model)
        repository.remove(pipeline, version)


def example(pipeline: str) -> tuple[Path, str]:
    """Write a sample that people can send to .state/examples; return where, and what it is: `image`."""
    spec = read_json(package(pipeline) / "repository" / pipeline / VERSION / "spec.json")
    return golden.example(package(pipeline), pipeline), modality(spec)
