"""requalify: would what is live go live today? Its engine, tried on the versions that are installed now."""

import shutil
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, State
from tritonclient.utils import InferenceServerException

from flows import events, gate, ownership, promotion, receipt, repository, sandbox, serving, terminal
from flows.checks import BREACH, OK, UNKNOWN, Check, reasons, table
from flows.parameters import OneOrAll, named
from flows.refusal import Refused
from tasks import backends
from tasks.package import VERSION
from tasks.settings import STATE

ASIDE = STATE / "triton" / "requalify"
NICE = 10  # clients go first


@flow(name="requalify", flow_run_name=named, log_prints=True)
def requalify(pipeline: OneOrAll = None) -> State[dict[str, Any]]:
    """Try the live version of one pipeline, or of all, in a server started now; the state is Qualified or Disqualified.

    A live server keeps what it loaded, so an upgrade breaks it at the next restart: this finds out before.
    """
    names = [pipeline] if pipeline else receipt.pipelines()
    with ownership.owned(str(flow_run.id), pipeline or "all"):
        said = {name: tried(name) for name in names}
    broken = [each for words in said.values() for each in words]
    if broken:
        return Completed(name="Disqualified", message="; ".join(broken), data=said)
    return Completed(
        name="Qualified", message=f"{', '.join(names) or 'nothing'} live, as good as when deployed", data=said
    )


def tried(pipeline: str) -> list[str]:
    """Check a pipeline's live version, leave a table on the run, alert where it fails; return the failures."""
    left = receipt.demand(pipeline)
    checks = [admitted(pipeline, left)]
    if checks[0].verdict == OK:
        checks += served(pipeline, left)
    table("requalify", pipeline, left, checks)
    broken = reasons(pipeline, checks)
    if broken:
        events.alert(pipeline, broken)
    for line in broken:
        terminal.paragraph(line)
    return broken


def admitted(pipeline: str, left: dict[str, Any]) -> Check:
    """Ask the engine's passport about this machine and the server's versions."""
    backend = backends.backend(left["engine"].split("-")[0])
    folder = serving.MODELS / repository.names(pipeline, left["version"])[1] / VERSION
    verdict = gate.judged(folder / f"engine{backend.SUFFIX}")
    said = "; ".join(verdict.reasons) or "may run here"
    return Check("passport", OK if verdict.answer == "load" else BREACH, said)


def served(pipeline: str, left: dict[str, Any]) -> list[Check]:
    """Serve the live version's files in a sandbox: its answers to the test set now and then, and its latency."""
    shutil.rmtree(ASIDE, ignore_errors=True)
    try:
        bounds, test = gate.knobs(pipeline), promotion.test_set(pipeline)
        repository.copy(pipeline, left["version"], ASIDE)
        with sandbox.sandbox(ASIDE, pipeline, name="requalify", nice=NICE) as there:
            found = sandbox.latency(there, test.samples[0])
            answers = there.classify_all(test.samples)[0]
    except (ValueError, InferenceServerException) as error:  # it did not load, or it loaded and does not answer
        return [Check("sandbox", BREACH, str(error))]
    finally:
        shutil.rmtree(ASIDE, ignore_errors=True)
    slow = f"p99 of single samples in the sandbox, p50 {found['p50_ms']:.1f} ms"
    late = found["p99_ms"] > bounds.max_p99_ms
    latency = Check("latency", BREACH if late else OK, slow, found["p99_ms"], bounds.max_p99_ms, int(found["calls"]))
    return [latency, compared(pipeline, answers, test, bounds.max_champion_drop)]


def compared(pipeline: str, answers: list[str], test: promotion.TestSet, max_drop: float) -> Check:
    """Hold today's answers against those that it gave when it went live."""
    n, before = len(answers), receipt.answers(pipeline, test.sha256)
    if before is None:
        return Check("answers", UNKNOWN, "the test set is another than at the deploy", n=n)
    same = sum(a == b for a, b in zip(answers, before, strict=True))
    why = f"{same:,} of {n:,} as at the deploy"
    try:
        found = promotion.challenge(answers, before, test, max_drop)
    except Refused as refusal:
        return Check("answers", BREACH, f"{why}; {refusal}", bound=max_drop, n=n)
    return Check("answers", OK, why, -found["champion_delta"], max_drop, n)
