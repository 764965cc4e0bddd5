"""A server gone in mid-run: the run waits until it is back, and goes on where it was."""

import functools
import time
from collections.abc import Callable

from flows import live, services, terminal
from flows.replicas import replicas
from tasks.mirror import without_credentials
from tasks.settings import tracking_uri

LONGEST_S = 1800.0  # without a server; stages that are done are kept by DVC in any case
SHOWN_S = 15.0  # between two lines about it
PERIOD_S = 1.0
ANSWER_S = 60.0  # that any answer may take, as with Prefect's own client


def await_prefect() -> None:
    """Return once Prefect answers; `ValueError` where it does not for half an hour.

    Asked between two stages: Prefect's client bears an outage only on a connection that it has had.
    """
    from prefect.client.orchestration import get_client

    def answers() -> bool:
        with get_client(sync_client=True) as client:
            return client.api_healthcheck() is None

    wait("Prefect", answers)


def await_mlflow() -> None:
    """Return once MLflow's server answers, where there is one: to record a run is all that wants it."""
    address = without_credentials(tracking_uri())
    if address.startswith("http"):
        wait(f"MLflow at {address}", lambda: services.answers(f"{address.rstrip('/')}/health", ANSWER_S))


def await_tritons() -> None:
    """Return once every replica answers, whoever starts it: a deploy wants them all."""
    for replica in replicas():
        with replica.client() as client:
            wait(f"Triton ({replica.name})", functools.partial(live.answers, client))


def wait(name: str, answers: Callable[[], bool]) -> None:
    """Ask until there is an answer, see to it that somebody looks after our servers, and say what is waited for."""
    begun, shown = time.monotonic(), 0.0
    while not answers():
        for line in services.revive():
            terminal.say(line)
        waited = time.monotonic() - begun
        if waited >= LONGEST_S:
            raise ValueError(f"{name} has not answered for {waited:.0f} s; finished stages are kept, run again later")
        if waited - shown >= SHOWN_S:
            shown = waited
            terminal.say(f"{name} does not answer; waiting, {waited:.0f} of at most {LONGEST_S:.0f} s")
        time.sleep(PERIOD_S)
