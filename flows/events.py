"""What other parts, and people, may act on: events in Prefect, of a pipeline each."""

DRIFT, ALERT = "engineworks.drift", "engineworks.alert"


def drift(pipeline: str, reasons: list[str]) -> None:
    """Say that a pipeline's data have changed; infra/prefect.yaml answers with a retraining."""
    emit(DRIFT, pipeline, reasons)


def alert(pipeline: str, reasons: list[str]) -> None:
    """Say that a pipeline needs people."""
    emit(ALERT, pipeline, reasons)


def emit(event: str, pipeline: str, reasons: list[str]) -> None:
    """Send an event, and wait until Prefect has it."""
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker

    resource = {"prefect.resource.id": f"engineworks.pipeline.{pipeline}", "prefect.resource.name": pipeline}
    sent = emit_event(event, resource, payload={"pipeline": pipeline, "reason": "; ".join(reasons)[:1000]})
    if sent is None:
        raise ValueError(f"{event} of {pipeline}: Prefect takes no events (PREFECT_API_URL)")
    EventsWorker.instance().wait_until_empty()
