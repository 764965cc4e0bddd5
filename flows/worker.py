"""What runs the deployments of infra/prefect.yaml here, until stopped: `python -m flows.worker`."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows import addresses, ownership, services, slots, turn

DEPLOYMENTS = Path("infra", "prefect.yaml")
DEFAULTS = {
    "ENGINEWORKS_POOL": "engineworks",
    "ENGINEWORKS_CRON": "0 3 * * *",  # every night at three, UTC
    turn.WAIT: "86400",  # s: a scheduled run waits for its turn as long as it takes
}
MISSED_S = 60.0  # a run that is late by more was missed: nobody was there to start it
NICE = 10  # of the applying: the run that started us goes first
POLL_S = "5"  # between two looks for due runs


def main() -> None:
    """Close what was killed, clear what was missed while nothing was up, apply the deployments, and work."""
    addresses.adopt()
    here = {"ENGINEWORKS_CHECKOUT": str(Path.cwd()), "PREFECT_WORKER_QUERY_SECONDS": POLL_S}
    for name, value in (DEFAULTS | here).items():
        os.environ.setdefault(name, value)
    health = f"{os.environ['PREFECT_API_URL']}/health"
    while not services.answers(health):  # `make down` ends us, so this needs no bound
        time.sleep(1)
    from prefect.workers.process import ProcessWorker

    pool = os.environ["ENGINEWORKS_POOL"]
    kind = make_pool(pool, ProcessWorker)
    slots.create()
    for line in [*ownership.close_orphans(), *clear_missed()]:
        print(line, flush=True)
    apply()
    with contextlib.suppress(KeyboardInterrupt):  # how `make down` ends it
        if kind != ProcessWorker.type:
            print(f"{pool} is of type {kind}: a worker of that type starts its runs, we do not", flush=True)
            signal.pause()
        asyncio.run(ProcessWorker(work_pool_name=pool, create_pool_if_not_found=False).start())


def make_pool(name: str, worker: Any) -> str:
    """Have Prefect know the pool and return its type; one that is there keeps what people set."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    template = worker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type=worker.type, base_job_template=template))
        except ObjectAlreadyExists:
            return str(client.read_work_pool(name).type)
    return str(worker.type)


def clear_missed() -> list[str]:
    """Remove scheduled runs that nobody was there to start, but the last of each deployment; return a line for each.

    Prefect would start them all at once: a night's worth of monitors.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters, objects, sorting

    scheduled = filters.FlowRunFilterStateType(any_=[objects.StateType.SCHEDULED])
    before = filters.FlowRunFilterExpectedStartTime(before_=datetime.now(UTC) - timedelta(seconds=MISSED_S))
    due = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=scheduled), expected_start_time=before)
    lines = []
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            own = filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=[deployment.id]))
            newest_first = sorting.FlowRunSort.EXPECTED_START_TIME_DESC
            runs = client.read_flow_runs(flow_run_filter=due, deployment_filter=own, sort=newest_first)
            missed = [run for run in runs if run.auto_scheduled][1:]
            for run in missed:
                client.delete_flow_run(run.id)
            if missed:
                lines.append(f"{deployment.name}: {len(missed)} runs were missed; the last one stands in for them")
    return lines


def apply() -> None:
    """Have Prefect know what is in infra/prefect.yaml; `ValueError` with its words where it refuses."""
    words = ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    done = subprocess.run(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=step_back
    )
    print(done.stdout, flush=True)
    if done.returncode:
        raise ValueError(f"{DEPLOYMENTS}: Prefect does not take it: {done.stdout.strip().splitlines()[-1]}")


def step_back() -> None:
    """Let others go first."""
    os.nice(NICE)


if __name__ == "__main__":
    main()
