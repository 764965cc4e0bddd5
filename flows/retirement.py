"""A version that was live stays loaded for a grace time, so that a rollback finds it there; then it is unloaded."""

from datetime import UTC, datetime
from typing import Any

from flows import journal, live, receipt, repository
from flows.locking import alone
from flows.patient import listening
from flows.recovery import unload
from flows.replicas import replicas


class Retirement:
    """Takes versions off the servers whose time is over, once after each deploy and rollback."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}  # when the receipts were written after which it was done, by pipeline

    def attend(self) -> None:
        """Unload what is due; `Busy` while a deploy is under way."""
        for pipeline in receipt.pipelines():
            left, written = receipt.read(pipeline), receipt.place(pipeline).stat().st_mtime_ns
            if left is None or self.done.get(pipeline) == written or not due(left):
                continue
            if journal.pending() or not all(map(listening, replicas())):
                return
            with alone(), live.fleet() as clients:
                if receipt.read(pipeline) != left:  # meanwhile another went live
                    continue
                for version in repository.versions(pipeline) - {left["version"]}:
                    unload(clients, pipeline, version)
            self.done[pipeline] = written


def due(left: dict[str, Any]) -> bool:
    """Tell whether what was live before a receipt has had its grace time."""
    age = datetime.now(UTC) - datetime.fromisoformat(left["at"])
    return age.total_seconds() >= left.get("grace_s", 0)
