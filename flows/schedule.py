"""Serve the main flow as a scheduled deployment, until stopped: `python -m flows.schedule`."""

import os
import time

from flows import addresses, services

CRON = "0 3 * * *"  # every night at three, UTC


def main() -> None:
    """Serve `run/nightly`; the schedule pauses while nobody serves it."""
    addresses.adopt()
    health = f"{os.environ['PREFECT_API_URL']}/health"
    while not services.answers(health):  # `make down` ends us, so this needs no bound
        time.sleep(1)
    from flows.pipeline import run

    run.serve(name="nightly", cron=os.environ.get("ENGINEWORKS_CRON", CRON), limit=1)


if __name__ == "__main__":
    main()
