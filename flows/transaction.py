"""A deploy as a transaction: proved in a sandbox, loaded beside the live version, switched; or all as it was."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import golden, journal, live, promotion, receipt, repository, sandbox
from flows.addresses import address
from flows.gate import Knobs, package, read_json
from flows.recovery import conclude, restore, unload
from flows.refusal import Refused
from flows.serving import MODELS
from tasks import budget
from tasks.package import REFERENCE, public

ASIDE = MODELS.parent / "sandbox"
NICE = 10  # of the rehearsal: clients go first


def replace(
    clients: list[Any], pipeline: str, batch: golden.Golden, bounds: Knobs, facts: dict[str, Any]
) -> dict[str, Any]:
    """Take the live version's place on one replica after the other, and return the receipt.

    On any error all is put back everywhere, the live version serves on.

    `Refused`, before the live server hears of it, where it is slower than its bound or worse than the champion.
    """
    test = promotion.test_set(pipeline)
    trial = rehearse(pipeline, batch, bounds, test)
    compared = promotion.challenge(
        trial["answers"], promotion.champion(clients[0], pipeline, test), test, bounds.max_champion_drop
    )
    before, previous = repository.configurations(pipeline), repository.live_version(pipeline)
    version = max(repository.versions(pipeline), default=0) + 1
    journal.open_entry(pipeline, version, before)
    try:
        for old in repository.versions(pipeline) - {previous}:  # at most two are loaded at a time
            unload(clients, pipeline, old)
        repository.stage(package(pipeline) / "repository", pipeline, version)
        load(clients, pipeline, version)
        for client in clients:
            prove(live.Served(client, pipeline, version), batch, bounds.max_score_difference)
            switch(client, pipeline, version)
            proof = prove(live.Served(client, pipeline), batch, bounds.max_score_difference)
        trial |= {"golden": proof, "canary": batch.labels[0]}
        left = account(pipeline, version, facts, trial, test) | compared | {"grace_s": bounds.grace_s}
        receipt.keep_of(receipt.CANARIES, pipeline, facts["sha256"], batch.samples[0])
        receipt.keep_of(receipt.REFERENCES, pipeline, facts["sha256"], (package(pipeline) / REFERENCE).read_bytes())
        receipt.write(pipeline, left, test.sha256, trial["answers"], before)  # from here on the new one is live
    except BaseException:
        restore(clients, pipeline, before, version)
        raise
    conclude(clients, pipeline, version, previous)
    return left


def account(
    pipeline: str, version: int, facts: dict[str, Any], trial: dict[str, Any], test: promotion.TestSet
) -> dict[str, Any]:
    """Return the receipt of a version that took over: what it is, what it answered, how fast, and what that cost."""
    served = promotion.served(pipeline, facts["engine"], trial["answers"], test)
    evaluated = read_json(Path("metrics", "evaluate", f"{pipeline}.json"))
    return {
        "pipeline": pipeline,
        "version": version,
        "sha256": facts["sha256"],
        "engine": facts["engine"],
        "served_accuracy": served["accuracy"],
        **{name: served[name] for name in ("n", "low", "high")},
        **{name: trial[name] for name in ("golden", "latency", "canary")},
        "budget": budget.table(evaluated, facts["engine"], served),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": f"http://{address('HTTP')}/v2/models/{pipeline}/infer",
    }


@task(cache_policy=NO_CACHE)
def rehearse(pipeline: str, batch: golden.Golden, bounds: Knobs, test: promotion.TestSet) -> dict[str, Any]:
    """Serve the package in a sandbox: golden batch, latency, the whole test set; return its answers and its latency."""
    shutil.rmtree(ASIDE, ignore_errors=True)
    shutil.copytree(package(pipeline) / "repository", ASIDE, copy_function=shutil.copyfile)
    with sandbox.sandbox(ASIDE, pipeline, nice=NICE) as served:
        golden.prove(served, batch, bounds.max_score_difference)
        found = sandbox.latency(served, batch.samples[0])
        answers = served.classify_all(test.samples)[0]
    shutil.rmtree(ASIDE, ignore_errors=True)
    if found["p99_ms"] > bounds.max_p99_ms:
        raise Refused(
            [
                f"deploy: p99 through the server {found['p99_ms']:.1f} ms over max_p99_ms {bounds.max_p99_ms:g} "
                f"(n={found['calls']} single samples, p50 {found['p50_ms']:.1f} ms)"
            ]
        )
    return {"answers": answers, "latency": found}


@task(cache_policy=NO_CACHE)
def load(clients: list[Any], pipeline: str, version: int) -> None:
    """Load a new version of the parts beside the live one, on every replica."""
    live.everywhere(live.load, clients, repository.names(pipeline, version))


@task(cache_policy=NO_CACHE)
def prove(served: live.Served, batch: golden.Golden, bound: float) -> dict[str, Any]:
    """Replay the golden batch."""
    return golden.prove(served, batch, bound)


@task(cache_policy=NO_CACHE)
def switch(client: Any, pipeline: str, version: int) -> None:
    """Move all requests that a replica gets to a version that is loaded and proved there."""
    repository.point(package(pipeline) / "repository", pipeline, version)
    for model in public(pipeline):
        live.load(client, model)
