"""Serve the main flow as a scheduled deployment, until stopped: `python -m flows.schedule`."""

import os

from flows import addresses

CRON = "0 3 * * *"  # every night at three, UTC


def main() -> None:
    """Serve `run/nightly`; the schedule pauses while nobody serves it."""
    addresses.adopt()
    from flows.pipeline import run

    run.serve(name="nightly", cron=os.environ.get("ENGINEWORKS_CRON", CRON), limit=1)


if __name__ == "__main__":
    main()
