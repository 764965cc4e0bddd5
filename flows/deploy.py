"""deploy: put a package on the live server, prove it there and leave a receipt; or leave all as it was and say why."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, State
from tritonclient.utils import InferenceServerException

from flows import golden, live, outages, ownership, receipt, terminal
from flows.gate import Knobs, classes, gate, knobs, package, read_json
from flows.locking import HEALING_S, alone
from flows.parameters import Pipeline
from flows.recovery import recover
from flows.refusal import Refused
from flows.transaction import replace
from tasks.package import VERSION, modality

UNCHANGED = "Unchanged"  # state of a deploy that found its package live


@flow(name="deploy", flow_run_name="deploy-{pipeline}")
def deploy(pipeline: Pipeline) -> State[dict[str, Any]]:
    """Put a pipeline's package on the live server; the state is Deployed, Unchanged, or Refused with every reason.

    The first two carry the receipt; Refused carries `{"refused": [reason, ...]}` and what was live serves on.
    """
    try:
        with ownership.owned(str(flow_run.id), pipeline):
            left, name = go_live(pipeline)
    except Refused as refusal:
        return Completed(name="Refused", message=str(refusal), data={"refused": refusal.reasons})
    served = f"{left['engine']} is live as version {left['version']}"
    return Completed(name=name, message=served, data=left)


def go_live(pipeline: str) -> tuple[dict[str, Any], str]:
    """Return the receipt of what is live now, this package, proved and scored; and Deployed, or Unchanged where it was.

    Raises `Refused` where a gate does not let it pass. Where this very package is live and answers, nothing is loaded.
    Why nothing went live is written to the package's run in MLflow, too.
    """
    from tasks.record import note, promote

    try:
        left, name = guarded(pipeline)
    except (Refused, ValueError, InferenceServerException) as error:
        outages.await_mlflow()
        note(pipeline, read_json(package(pipeline) / "package.json").get("sha256"), str(error))
        raise
    outages.await_mlflow()
    promote(pipeline, left)  # also where nothing was deployed: an emptied MLflow gets its champion back
    return left, name


def guarded(pipeline: str) -> tuple[dict[str, Any], str]:
    """Pass the gates and, under the lock, replace what is live."""
    facts, bounds = gate(pipeline), knobs(pipeline)
    with alone(HEALING_S), live.fleet() as clients:
        if done := recover(clients, pipeline):
            terminal.say(done)
        batch = golden.read(package(pipeline), pipeline, facts["engine"], classes(pipeline))
        left = receipt.read(pipeline)
        if left is not None and left.get("rolled_back") == facts["sha256"]:
            reason = "this very package was rolled back; change something, or take that back with: engineworks rollback"
            raise Refused([f"deploy: {reason}"])
        same = left is not None and left["sha256"] == facts["sha256"]
        if left and same and all(is_live(live.Served(each, pipeline), batch, bounds) for each in clients):
            return left, UNCHANGED
        return replace(clients, pipeline, batch, bounds, facts), "Deployed"


def is_live(served: live.Served, batch: golden.Golden, bounds: Knobs) -> bool:
    """Tell whether a live server gives the golden answers now."""
    try:
        golden.prove(served, batch, bounds.max_score_difference)
    except (InferenceServerException, ValueError):
        return False
    return True


def example(pipeline: str) -> tuple[Path, str]:
    """Write a sample that people can send to .state/examples; return where, and what it is: `image`."""
    spec = read_json(package(pipeline) / "repository" / pipeline / VERSION / "spec.json")
    return golden.example(package(pipeline), pipeline), modality(spec)
