"""Which process owns a run in Prefect and MLflow; a run whose owner was killed is closed: nothing stays RUNNING."""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from tasks import atomic
from tasks.guard import lives
from tasks.settings import STATE

RUNS = STATE / "runs"
STOP_S = 15.0  # that a run may take to stop
KILLED = "its process was killed"


@contextmanager
def owned(flow_run_id: str, pipeline: str) -> Iterator[None]:
    """While the body runs, say on disk that this process owns a flow run; afterwards nobody needs to know.

    One that was told to stop may not get to tell Prefect, whose server stops, too: its mark stays, to be closed.
    """
    mine = {"host": platform.node(), "pid": os.getpid(), "created": psutil.Process().create_time()}
    content = mine | {"pipeline": pipeline}
    path = RUNS / f"{flow_run_id}.json"
    atomic.write_json(path, content)
    try:
        yield
    except Exception:
        path.unlink()
        raise
    path.unlink()


def note_live_run(run_id: str) -> None:
    """Add the MLflow run that follows this process's training."""
    for path in RUNS.glob("*.json"):
        content = json.loads(path.read_text())
        if is_here(content) and content["pid"] == os.getpid():
            atomic.write_json(path, content | {"mlflow_run_id": run_id})


def close_orphans() -> list[str]:
    """Close what killed runs left RUNNING in Prefect and MLflow; return a line for each.

    While MLflow does not answer, a run that followed a training stays marked: the next one to look closes it.
    """
    lines = []
    for path in sorted(RUNS.glob("*.json")):
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:  # its run has just ended, or another one closes it
            continue
        if not is_here(content) or owner_lives(content):
            continue
        closed = crash(path.stem)
        if "mlflow_run_id" not in content or ended_in_mlflow(content["mlflow_run_id"]):
            path.unlink(missing_ok=True)
        if closed:
            lines.append(f"closed the run of {content['pipeline']} that was killed (process {content['pid']})")
    return lines


def ended_in_mlflow(run_id: str) -> bool:
    """Close the run that followed a killed training; tell whether nothing is left to do, also for one unknown there.

    False while MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    from tasks.mirror import end_live_run

    try:
        end_live_run(run_id, "KILLED", KILLED)
    except MlflowException as error:
        return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
    return True


def interrupt() -> list[str]:
    """Ask every run of this checkout to stop, and end it where it does not; return their pipelines."""
    found = []
    for path in sorted(RUNS.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):
            content = json.loads(path.read_text())
            if is_here(content) and owner_lives(content) and content["pid"] != os.getpid():
                found.append(content)
    owners = []
    for content in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            owners.append(psutil.Process(content["pid"]))
            owners[-1].terminate()
    _, left = psutil.wait_procs(owners, timeout=STOP_S)
    for owner in left:
        owner.kill()
    return sorted({content["pipeline"] for content in found})


def is_here(content: dict[str, Any]) -> bool:
    """Tell whether an owner is of this machine: those in other containers are their pool's worker's to close."""
    return bool(content.get("host", platform.node()) == platform.node())


def owner_lives(content: dict[str, Any]) -> bool:
    """Tell whether the process that wrote an ownership still runs."""
    try:
        process = psutil.Process(content["pid"])
        return lives(process) and abs(process.create_time() - content["created"]) < 1
    except psutil.NoSuchProcess:
        return False


def crash(flow_run_id: str) -> bool:
    """Mark a flow run, its tasks and the flow runs below as Crashed where Prefect thinks they run; tell if it did."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterParentFlowRunId,
    )
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            return False  # Prefect's database is another one now
        below = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        )
        for each in [*below, run]:
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[each.id])))
            for task in tasks:
                if task.state is not None and not task.state.is_final():
                    client.set_task_run_state(task.id, Crashed(message=KILLED), force=True)
        open_ones = [each for each in (*below, run) if each.state is not None and not each.state.is_final()]
        for each in open_ones:
            client.set_flow_run_state(each.id, Crashed(message=KILLED), force=True)
    return bool(open_ones)
