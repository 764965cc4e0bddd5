"""rollback: the version before answers again, in seconds; a second rollback takes that back."""

import shutil
import time
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows import journal, live, ownership, promotion, receipt, repository, services, terminal
from flows.locking import HEALING_S, alone
from flows.parameters import Pipeline
from flows.recovery import conclude, recover, restore
from flows.refusal import Refused
from flows.serving import MODELS
from tasks import atomic
from tasks.package import VERSION, public

REFUSED = 3
PROBES = 50  # test samples whose recorded answers the version has to give again


def roll_back(pipeline: str) -> int:
    """Start what is not up, put the version before back and say what is live; return the exit code, 3 for a refusal."""
    every = services.known()
    services.start(every)
    services.wait(every)
    begun = time.monotonic()
    state = rollback(pipeline, return_state=True)
    left = state.result()
    for line in left.get("refused", [f"recorded in MLflow, {time.monotonic() - begun:.0f} s in all"]):
        terminal.paragraph(line)
    return REFUSED if "refused" in left else 0


@flow(name="rollback", flow_run_name="rollback-{pipeline}")
def rollback(pipeline: Pipeline) -> State[dict[str, Any]]:
    """Put the version before back; the state is RolledBack with its receipt, or Refused with the reason."""
    try:
        with ownership.owned(str(flow_run.id), pipeline):
            left = go_back(pipeline)
    except Refused as refusal:
        return Completed(name="Refused", message=str(refusal), data={"refused": refusal.reasons})
    return Completed(name="RolledBack", message=said(left), data=left)


def said(left: dict[str, Any]) -> str:
    """Say what is live."""
    return f"{left['engine']} is live again as version {left['version']}"


def go_back(pipeline: str) -> dict[str, Any]:
    """Load the version before beside the live one, prove it by its recorded answers, switch; return its receipt.

    The package that was live is not deployed again by itself. `Refused` where nothing is there to go back to.
    """
    with alone(HEALING_S), live.fleet() as clients:
        recover(clients, pipeline)
        now, before = receipt.read(pipeline), receipt.previous(pipeline)
        if now is None or before is None:
            raise Refused([f"rollback: no version of {pipeline} was live before this one"])
        version = int(before["receipt"]["version"])
        if version == int(now["version"]):  # a deploy was put back while it wrote its receipt
            raise Refused(
                [f"rollback: version {version} of {pipeline} is live already; what was before it is not known"]
            )
        if version not in repository.versions(pipeline):
            raise Refused([f"rollback: the files of version {version} of {pipeline} are gone; deploy it again"])
        configurations = repository.configurations(pipeline)
        journal.open_entry(pipeline, version, configurations, known=True)
        try:
            live.everywhere(live.load, clients, repository.names(pipeline, version))
            for client in clients:
                prove(live.Served(client, pipeline, version), before)
                lead_to(client, pipeline, version, before["configurations"])
        except BaseException:
            restore(clients, pipeline, configurations, version, known=True)
            raise
        swap(pipeline, now, before, configurations)
        conclude(clients, pipeline, version, int(now["version"]))
    terminal.paragraph(said(before["receipt"]))  # MLflow hears of it later: its import takes seconds
    from tasks.record import promote

    promote(pipeline, before["receipt"])
    return dict(before["receipt"])


def prove(served: live.Served, before: dict[str, Any]) -> None:
    """Raise `Refused` unless the version answers test samples as it once did; another test set proves nothing."""
    test, kept = promotion.test_set(served.pipeline), before["answers"]
    given, _ = served.classify_all(test.samples[:PROBES])
    if kept and kept["test"] == test.sha256 and given != kept["labels"][: len(given)]:
        same = sum(a == b for a, b in zip(given, kept["labels"], strict=False))
        raise Refused([f"rollback: version {served.version} gives only {same} of {len(given)} of its recorded answers"])


def lead_to(client: Any, pipeline: str, version: int, configurations: repository.Files) -> None:
    """Point the public models at a version whose parts are loaded; requests move with each model's load."""
    for path, text in configurations.items():
        if text is None:
            raise Refused([f"rollback: no configuration of {path.parent.name} was kept; deploy instead"])
        there = path.parent / str(version)
        there.mkdir(exist_ok=True)  # Triton numbers a chain by its folder
        spec = MODELS / repository.names(pipeline, version)[1] / VERSION / "spec.json"
        shutil.copyfile(spec, there / "spec.json")
        repository.write(path, text)
    for model in public(pipeline):
        live.load(client, model)


def swap(pipeline: str, now: dict[str, Any], before: dict[str, Any], configurations: repository.Files) -> None:
    """Make the receipt of the version before the live one, and the live one's what a second rollback goes to."""
    receipt.keep(pipeline, configurations)
    if before["answers"]:
        atomic.write_json(receipt.ANSWERS / f"{pipeline}.json", before["answers"])
    back = {name: value for name, value in before["receipt"].items() if name != "rolled_back"}
    if now.get("rolled_back") != back["sha256"]:  # else this takes a rollback back
        back["rolled_back"] = now["sha256"]
    atomic.write_json(receipt.place(pipeline), back)
