"""A server under the supervisor's care: how it has been, and when it may be treated."""

import time
from dataclasses import dataclass

from tritonclient.utils import InferenceServerException

from flows import services
from flows.replicas import Replica

DEADLINE_S = 5.0  # for any answer
START_S = 45.0  # that a server may take to come up
BACK_OFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # before the first, second, ... attempt in a row


@dataclass
class Patient:
    """A server, and how it has been."""

    name: str
    attempts: int = 0  # to heal it, in a row
    not_before: float = 0.0  # the next one
    was_well: float = 0.0  # the start of the process that last answered right

    def is_well(self) -> None:
        """Note a right answer."""
        self.attempts, self.was_well = 0, started(self.name)

    def is_due(self) -> bool:
        """Tell whether it may be treated now."""
        return not self.attempts or time.monotonic() >= self.not_before

    def is_treated(self) -> None:
        """Note a treatment: the next one, if need be, is later each time."""
        self.attempts += 1
        self.not_before = time.monotonic() + BACK_OFF_S[min(self.attempts, len(BACK_OFF_S) - 1)]

    def is_coming_up(self, replica: Replica) -> bool:
        """Tell whether its process is new and still may be silent."""
        begun = started(self.name)
        return begun != self.was_well and time.time() - begun < START_S and not listening(replica)


def started(service: str) -> float:
    """Return when a process was started, in seconds since 1970; 0 where there is none."""
    process = services.process(service)
    return process.create_time() if process else 0.0


def listening(replica: Replica) -> bool:
    """Tell whether a server answers anything at all."""
    try:
        with replica.client() as client:
            return bool(client.is_server_live(client_timeout=DEADLINE_S))
    except InferenceServerException:
        return False
