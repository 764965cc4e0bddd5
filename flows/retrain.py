"""retrain: what people have labelled since becomes training data; then everything that is stale runs, and goes live."""

from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows import events, feedback, ownership, turn
from flows.parameters import Pipeline, Reason
from flows.pipeline import run


@flow(name="retrain", flow_run_name="retrain-{pipeline}")
def retrain(pipeline: Pipeline = "fashion", reason: Reason = "asked for") -> State[dict[str, Any]]:
    """Take in late labels and bring the pipeline up to date; the state is that of the run, and says what was new.

    Where nothing was new, or a gate refused, people are told (`engineworks.alert`): what was live serves on.
    """
    with ownership.owned(str(flow_run.id), pipeline), turn.taken(pipeline):
        taken = feedback.take_in(pipeline)
        outcome = run(pipeline, return_state=True)
    numbers = outcome.result()
    words = f"{taken:,} labelled files taken in; {outcome.message} ({reason})"
    if not numbers["executed"]:
        remedy = "label samples with engineworks feedback, or put new ones in data/incoming"
        events.alert(pipeline, [f"{pipeline}: nothing new to learn from: {remedy} ({reason})"])
    if "refused" in numbers["live"]:
        events.alert(pipeline, [f"{pipeline}: retrained, but refused: {each}" for each in numbers["live"]["refused"]])
    return Completed(name=outcome.name, message=words, data=numbers)
