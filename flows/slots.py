"""One at a time on the GPU: a global concurrency limit of Prefect, which its page shows and lets people change."""

from collections.abc import Iterator
from contextlib import contextmanager

from flows import terminal

GPU = "gpu"
LEASE_S = 60.0  # that a killed holder keeps its slot
SHOWN_S = 15.0  # between two lines that somebody waits


def create() -> None:
    """Have Prefect know the limit, one stage at a time; a limit that people changed stays as it is."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client:
        try:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU, limit=1))
        except ObjectAlreadyExists:
            return


@contextmanager
def taken(wanted: bool) -> Iterator[None]:
    """Hold a slot while the body runs, where one is wanted; whoever waits says so.

    A lease that can't be renewed, as while Prefect is down, ends nothing: what runs, runs. To be taken before a task
    begins: while Prefect writes that down, SQLite refuses the slot, and Prefect's client asks again after two seconds.
    """
    if not wanted:
        yield
        return
    from contextlib import ExitStack

    from prefect.concurrency.sync import concurrency

    with ExitStack() as stack:
        while True:
            slot = concurrency(
                GPU, timeout_seconds=SHOWN_S, lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False
            )
            try:
                stack.enter_context(slot)
                break
            except TimeoutError:
                terminal.say(f"waiting for the concurrency limit '{GPU}', which others hold: see Prefect's page")
        yield
