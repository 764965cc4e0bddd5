"""Prefect gone in mid-run: the run waits until it is back, and goes on where it was."""

import time

from flows import terminal

LONGEST_S = 1800.0  # without Prefect; stages that are done are kept by DVC in any case
SHOWN_S = 15.0  # between two lines about it
PERIOD_S = 1.0


def ride_out() -> None:
    """Return once Prefect answers; `ValueError` where it does not for half an hour.

    Asked between two stages: Prefect's client bears an outage only on a connection it has had.
    """
    from prefect.client.orchestration import get_client

    begun, shown = time.monotonic(), 0.0
    while True:
        with get_client(sync_client=True) as client:
            error = client.api_healthcheck()
        if error is None:
            return
        waited = time.monotonic() - begun
        if waited >= LONGEST_S:
            raise ValueError(
                f"Prefect has not answered for {waited:.0f} s ({error}); finished stages are kept: make up"
            )
        if waited - shown >= SHOWN_S:
            shown = waited
            terminal.say(f"Prefect does not answer; waiting, {waited:.0f} of at most {LONGEST_S:.0f} s")
        time.sleep(PERIOD_S)
