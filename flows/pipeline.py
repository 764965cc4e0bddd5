"""The main flow: a conductor that asks DVC what is stale, runs that, deploys, and knows no stage by name."""

import json
import os
import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows import consoles, outages, ownership, slots, terminal, turn
from flows.deploy import UNCHANGED, deploy
from flows.graph import LAST, Graph, preview
from flows.mirroring import mirrored
from flows.parameters import Pipeline
from flows.reproducer import Reproducer
from flows.stage import stage
from tasks.guard import CONDUCTOR


@flow(name="run", flow_run_name="{pipeline}")
def run(pipeline: Pipeline = "fashion") -> State[dict[str, Any]]:
    """Bring every stage of a pipeline up to date, record it, deploy it; the state carries what happened, in numbers.

    A gate that lets nothing go live ends the run as Refused: it is recorded, and the live version serves on.
    """
    started = time.monotonic()
    preview(pipeline)  # a scheduled run comes by no command line
    with ownership.owned(str(flow_run.id), pipeline), turn.taken(pipeline):
        for line in ownership.close_orphans():
            terminal.say(line)
        Path("data", "incoming", pipeline).mkdir(parents=True, exist_ok=True)  # DVC wants a new pipeline's to be there
        computing, executed = conduct(pipeline)
        from tasks.record import heal

        outages.await_mlflow()
        heal(pipeline)
        selection = json.loads(Path("models", "select", f"{pipeline}.json").read_text())
        outages.await_prefect()
        report(pipeline, selection)
        outages.await_tritons()
        outcome = deploy(pipeline, return_state=True)
        outages.await_prefect()
    receipt = outcome.result()
    numbers = {"executed": executed, "computing": computing, "seconds": time.monotonic() - started}
    nothing = not executed and outcome.name == UNCHANGED
    return Completed(
        name="Completed" if nothing else outcome.name,
        message="nothing new" if nothing else outcome.message,
        data=numbers | {"live": receipt, "selection": selection},
    )


def conduct(pipeline: str) -> tuple[float, list[str]]:
    """Bring the stages up to date one by one; return the seconds of their own computing and which ones ran."""
    slots.create()
    computing, executed = 0.0, []
    graph = Graph(pipeline)
    dvc = Reproducer(os.environ | {"PREFECT__FLOW_RUN_ID": str(flow_run.id), CONDUCTOR: str(os.getpid())})
    try:
        for name in graph.stages():
            foreign = graph.foreign(name)
            fresh = foreign is None and graph.is_fresh(name)
            outages.await_prefect()
            if name.startswith(LAST):
                outages.await_mlflow()
            with slots.taken(not fresh and graph.takes_gpu(name)), mirrored(pipeline, watch=not fresh):
                state = stage(name, fresh, foreign is not None, dvc, return_state=True)
                seconds = state.result()
            if state.name != "Cached":
                computing += seconds
                executed.append(name)
            if not fresh:
                graph.reload()
    finally:
        dvc.end()
        graph.close()
    return computing, executed


def report(pipeline: str, selection: dict[str, Any]) -> None:
    """Leave the table of engines and the way to the run's report on the Prefect run."""
    columns = ("engine", "accuracy", "low", "high", "p50_ms", "p99_ms", "images_per_s", "size_bytes", "verdict")
    rows = [{column: row.get(column, "-") for column in columns} for row in selection["rows"]]
    key = pipeline.replace("_", "-")
    page = consoles.report_page(pipeline)
    link = f"[The run's report]({page})" if page else f"The run's report is `models/report/{pipeline}.html`."
    title = f"Engines of {pipeline}: {selection['objective']} decides"
    create_table_artifact(rows, key=f"engines-{key}", description=f"{title}. {link}")
    create_markdown_artifact(
        f"{link}\n\n```\n{terminal.table(selection['rows'])}\n```", key=f"report-{key}", description=link
    )
