"""deploy: put a package on the live server, prove it there and leave a receipt; or leave all as it was and say why."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State
from tritonclient.utils import InferenceServerException

from flows import golden, live, repository
from flows.addresses import address
from flows.gate import classes, gate, knobs, package, read_json
from flows.refusal import Refused
from tasks import atomic, shards
from tasks.interval import wilson
from tasks.package import VERSION, modality, public
from tasks.settings import STATE

RECEIPTS = STATE / "triton" / "live"
UNCHANGED = "Unchanged"  # state of a deploy that found its package live


@flow(name="deploy", flow_run_name="deploy-{pipeline}")
def deploy(pipeline: str) -> State[dict[str, Any]]:
    """Put a pipeline's package on the live server; the state is Deployed, Unchanged, or Refused with every reason.

    The first two carry the receipt; Refused carries `{"refused": [reason, ...]}` and what was live serves on.
    """
    try:
        receipt, name = go_live(pipeline)
    except Refused as refusal:
        return Completed(name="Refused", message=str(refusal), data={"refused": refusal.reasons})
    served = f"{receipt['engine']} is live as version {receipt['version']}"
    return Completed(name=name, message=served, data=receipt)


def go_live(pipeline: str) -> tuple[dict[str, Any], str]:
    """Return the receipt of what is live now, this package, proved and scored; and Deployed, or Unchanged where it was.

    Raises `Refused` where a gate does not let it pass. Where this very package is live and answers, nothing is loaded.
    """
    facts, bound = gate(pipeline), knobs(pipeline).max_score_difference
    with alone():
        client = live.connect()
        batch = golden.read(package(pipeline), pipeline, facts["engine"], classes(pipeline))
        receipt = read_receipt(pipeline)
        same = receipt is not None and receipt["sha256"] == facts["sha256"]
        name = UNCHANGED
        if receipt is None or not same or not is_live(live.Served(client, pipeline), batch, bound):
            receipt, name = replace(client, pipeline, batch, bound, facts), "Deployed"
    from tasks.record import promote

    promote(pipeline, receipt)  # also where nothing was deployed: an emptied MLflow gets its champion back
    return receipt, name


def read_receipt(pipeline: str) -> dict[str, Any] | None:
    """Return what the last deploy left, if there was one."""
    path = RECEIPTS / f"{pipeline}.json"
    return read_json(path) if path.exists() else None


@contextmanager
def alone() -> Iterator[None]:
    """Hold the one lock of all deploys: two loads at once can hang the server."""
    RECEIPTS.mkdir(parents=True, exist_ok=True)
    with (RECEIPTS.parent / "deploy.lock").open("w") as file:
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


def replace(client: Any, pipeline: str, batch: golden.Golden, bound: float, facts: dict[str, Any]) -> dict[str, Any]:
    """Take the live version's place, proved before and after, and leave a receipt; on any error put all back."""
    before, previous = repository.configurations(pipeline), repository.live_version(pipeline)
    version = max(repository.versions(pipeline), default=0) + 1
    retire(client, pipeline, {v for v in repository.versions(pipeline) if v > previous})  # left by a killed deploy
    try:
        stage(client, pipeline, version)
        prove(live.Served(client, pipeline, version), batch, bound)
        switch(client, pipeline, version)
        proof = prove(live.Served(client, pipeline), batch, bound)
        served = score(live.Served(client, pipeline))
    except BaseException:
        restore(client, pipeline, before, version)
        raise
    retire(client, pipeline, repository.versions(pipeline) - {previous, version})
    receipt = {"pipeline": pipeline, "version": version, "sha256": facts["sha256"], "engine": facts["engine"]}
    receipt |= served | {"golden": proof, "url": f"http://{address('TRITON_HTTP')}/v2/models/{pipeline}/infer"}
    atomic.write_json(RECEIPTS / f"{pipeline}.json", receipt)
    return receipt


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
def score(served: live.Served) -> dict[str, Any]:
    """Classify the whole test set through the live server: accuracy with its 95 % interval."""
    samples, labels = zip(*shards.read(Path("data", "prepare", served.pipeline), "test"), strict=True)
    answers, _ = served.classify_all(samples)
    names = classes(served.pipeline)
    correct = sum(answer == names[label] for answer, label in zip(answers, labels, strict=True))
    low, high = wilson(correct, len(labels))
    return {"served_accuracy": correct / len(labels), "n": len(labels), "low": low, "high": high}


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
