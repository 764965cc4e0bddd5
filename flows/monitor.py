"""monitor: how live pipelines are, by their own sampled answers, late labels and probes; a breach has consequences."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows import addresses, drift, events, feedback, observed, ownership, receipt, services, terminal, tokens
from flows.checks import BREACH, OK, UNKNOWN, Check, reasons, table
from flows.live import ANSWER_TIMEOUT_S, OURS, of_bytes
from flows.parameters import OneOrAll, named

PROBES = 100  # requests of one sample, for the p99
CLIENT = f"{tokens.REALTIME}/{tokens.FIRST}"


@flow(name="monitor", flow_run_name=named, log_prints=True)
def monitor(pipeline: OneOrAll = None) -> State[dict[str, Any]]:
    """Look at one live pipeline, or at all; the state is Healthy, or Breached with each reason and what follows of it.

    Drift, and accuracy by late labels, call for a retraining, unless one began within `cooldown_h`; no right answer
    and slow ones for people: two events, on which Prefect's automations act.
    """
    names = [pipeline] if pipeline else receipt.pipelines()
    with ownership.owned(str(flow_run.id), pipeline or "all"):
        for line in [*services.revive(), *ownership.close_orphans()]:
            terminal.say(line)
        said = {name: looked_after(name) for name in names}
    broken = {name: words for name, words in said.items() if words}
    if broken:
        return Completed(
            name="Breached", message="; ".join(each for words in broken.values() for each in words), data=said
        )
    return Completed(name="Healthy", message=f"{', '.join(names) or 'nothing'} live, nothing to say", data=said)


def looked_after(pipeline: str) -> list[str]:
    """Check a live pipeline, leave a table on the run, tell who has to know; return a sentence for each breach."""
    try:
        left, bounds = receipt.demand(pipeline), drift.knobs(pipeline)
    except ValueError as error:  # its block has left params.yaml, say: the others are looked at all the same
        events.alert(pipeline, [f"{pipeline}: {error}"])
        return [f"{pipeline}: {error}"]
    drifts, faults = list(changes(pipeline, left, bounds)), probed(pipeline, bounds)
    table("monitor", pipeline, left, [*faults, *drifts])
    said = []
    if broken := reasons(pipeline, faults):
        events.alert(pipeline, broken)
        said += broken
    if broken := reasons(pipeline, drifts):
        said += broken + consequences(pipeline, broken, bounds.cooldown_h)
    for line in said:
        terminal.paragraph(line)
    return said


def changes(pipeline: str, left: dict[str, Any], bounds: drift.Knobs) -> Iterator[Check]:
    """Give the checks for which new training data are the remedy."""
    reference = receipt.reference(pipeline)
    since = max(time.time() - 3600 * bounds.hours, receipt.place(pipeline).stat().st_mtime)
    rows = [each for each in observed.read(pipeline) if each["version"] == left["version"] and each["time"] >= since]
    if reference is None:
        yield Check("drift", UNKNOWN, f"deployed before there were references; make run PIPELINE={pipeline} leaves one")
    else:
        yield drift.inputs(reference, rows, bounds)
        yield from drift.answers(reference, rows, bounds)
    yield drift.accuracy(left["served_accuracy"], *feedback.counted(pipeline, left["version"]), bounds)


def probed(pipeline: str, bounds: drift.Knobs) -> list[Check]:
    """Ask through the door as clients do: whether the canary is answered right, and how soon."""
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    known = receipt.canary(pipeline)
    if known is None:
        return [Check("canary", UNKNOWN, "the deploy left none; deploy again")]
    sample, label = known
    headers = {"authorization": f"Bearer {tokens.keys()[CLIENT]}"}
    taken, given = [], set()
    try:
        with triton.InferenceServerClient(addresses.address("GRPC")) as client:
            name = client.get_model_metadata(pipeline, headers=headers, client_timeout=ANSWER_TIMEOUT_S).inputs[0].name
            asked = {"headers": headers, "request_id": OURS, "client_timeout": ANSWER_TIMEOUT_S}
            for _ in range(PROBES):
                begun = time.perf_counter()
                answer = client.infer(pipeline, [of_bytes([sample], name)], **asked)
                taken.append(1e3 * (time.perf_counter() - begun))
                given.add(answer.as_numpy("label").ravel()[0].decode())
    except InferenceServerException as error:
        return [Check("canary", BREACH, f"no answer through the door: {error.message()}", n=len(taken))]
    wrong = sorted(given - {label})
    said = f"answered {', '.join(wrong)} instead of {label}" if wrong else f"answered right: {label}"
    p99 = float(np.percentile(taken, 99))
    slow = f"p99 of single samples through the door, p50 {np.median(taken):.1f} ms"
    return [
        Check("canary", BREACH if wrong else OK, said, n=PROBES),
        Check("latency", BREACH if p99 > bounds.max_p99_ms else OK, slow, p99, bounds.max_p99_ms, PROBES),
    ]


def consequences(pipeline: str, broken: list[str], cooldown_h: float) -> list[str]:
    """Call for a retraining, unless one began within the cooldown; say which."""
    last = last_retraining(pipeline, cooldown_h)
    if last:
        return [f"{pipeline}: not retrained again before {last + timedelta(hours=cooldown_h):%Y-%m-%d %H:%M} UTC"]
    events.drift(pipeline, broken)
    return [f"{pipeline}: a retraining is called for"]


def last_retraining(pipeline: str, hours: float) -> datetime | None:
    """Return when the last retraining that nobody cancelled was due to begin; None where none was within `hours`."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    now = datetime.now(UTC)
    window = filters.FlowRunFilterExpectedStartTime(after_=now - timedelta(hours=hours), before_=now)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=filters.FlowFilter(name=filters.FlowFilterName(any_=["retrain"])),
            flow_run_filter=filters.FlowRunFilter(expected_start_time=window),
        )
    begun = [
        run for run in runs if run.parameters.get("pipeline") == pipeline and run.state_type != StateType.CANCELLED
    ]
    return max((run.expected_start_time for run in begun), default=None)
