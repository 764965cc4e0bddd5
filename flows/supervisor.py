"""The supervisor: asks every replica for real answers all the time, and heals or replaces what gives none.

python -m flows.supervisor
"""

import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
from tritonclient.utils import InferenceServerException

from flows import addresses, journal, live, receipt, repository, services
from flows.locking import Busy, alone
from flows.recovery import recover
from flows.replicas import Replica, replicas
from tasks.package import public

PERIOD_S, DEADLINE_S = 1.0, 5.0  # between two canaries; for one to answer
START_S, LOAD_S = 45.0, 15.0  # that a server may take to come up; a model to load
BACK_OFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # before the first, second, ... attempt in a row
CANARY = "canary"  # id of our own requests


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
        """Tell whether it may be treated now; if so, the next time is later each time."""
        now = time.monotonic()
        if self.attempts and now < self.not_before:
            return False
        self.attempts += 1
        self.not_before = now + BACK_OFF_S[min(self.attempts, len(BACK_OFF_S) - 1)]
        return True

    def is_coming_up(self, replica: Replica) -> bool:
        """Tell whether its process is new and still may be silent."""
        begun = started(self.name)
        return begun != self.was_well and time.time() - begun < START_S and not listening(replica)


def main() -> None:
    """Watch until stopped."""
    addresses.adopt()
    patients = [(replica, Patient(replica.name)) for replica in replicas()]
    door = Patient("door")
    while True:
        time.sleep(PERIOD_S)
        end_killed_deploys()
        for replica, patient in patients:
            attend(replica, patient)
        tend_door(door)


def attend(replica: Replica, patient: Patient) -> None:
    """Ask a replica for an answer of each live pipeline; where one is missing or wrong, heal it once it is due."""
    sick = {name: why for name in receipt.pipelines() if (why := complaint(name, replica))}
    if not sick:
        patient.is_well()
        return
    if patient.is_coming_up(replica) or not patient.is_due():
        return
    try:
        with alone():
            heal(replica, sick)
    except Busy:
        return  # a deploy proves what it loads
    except (ValueError, InferenceServerException) as error:
        say(f"{replica.name}: not healed yet: {error}")


def end_killed_deploys() -> None:
    """Undo or finish what a killed deploy began; one that is under way holds the lock."""
    if not journal.pending() or not all(map(listening, replicas())):
        return
    try:
        with alone(), live.fleet() as clients:
            for pipeline in journal.pending():
                say(recover(clients, pipeline) or f"{pipeline}: its deploy has ended")
    except Busy:
        return
    except (ValueError, InferenceServerException) as error:
        say(f"a deploy is not ended yet: {error}")


def complaint(pipeline: str, replica: Replica) -> str | None:
    """Send the canary, a golden sample, through all of a pipeline; say what is wrong, None where nothing is.

    A health address tells nothing: it answers 200 while every inference fails.
    """
    found = receipt.canary(pipeline)
    if found is None:
        return None
    sample, label = found
    try:
        with replica.client() as client:
            name = client.get_model_metadata(pipeline, client_timeout=DEADLINE_S).inputs[0].name
            asked = [live.of_bytes([sample], name)]
            answer = client.infer(pipeline, asked, request_id=CANARY, client_timeout=DEADLINE_S)
            given = answer.as_numpy("label").ravel()[0].decode()
    except InferenceServerException as error:
        return str(error.message() or error)[:200]
    return None if given == label else f"answered '{given}' instead of '{label}'"


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


def heal(replica: Replica, sick: dict[str, str]) -> None:
    """Replace a replica's process: the door asks the others meanwhile; a lone one loads the sick anew first."""
    for pipeline, why in sick.items():
        say(f"{replica.name}: {pipeline}: {why}")
    if replicas() == [replica] and services.process(replica.name) is not None and listening(replica):
        try:
            for pipeline in sick:
                reload(replica, pipeline)
            if not [name for name in sick if complaint(name, replica)]:
                say(f"{replica.name}: healed {', '.join(sick)} by loading anew")
                return
        except InferenceServerException as error:
            say(f"{replica.name}: loading anew failed: {error.message()}")
    replace(replica.name)


def reload(replica: Replica, pipeline: str) -> None:
    """Unload and load a pipeline's live parts: a load alone does nothing for a version that the server holds."""
    with replica.client() as client:
        for model in repository.names(pipeline, repository.live_version(pipeline)):
            client.unload_model(model, client_timeout=LOAD_S)
            client.load_model(model, client_timeout=LOAD_S)
        for model in public(pipeline):
            client.load_model(model, client_timeout=LOAD_S)


def tend_door(patient: Patient) -> None:
    """Replace the door where it does not answer, unless it has nobody to ask."""
    door = next(each for each in services.known() if each.name == patient.name)
    if services.process(door.name) is not None and services.answers(door.health, DEADLINE_S):
        patient.is_well()
    elif any(map(listening, replicas())) and patient.is_due():
        replace(door.name)


def replace(name: str) -> None:
    """End a server's process and all of its children at once, and start another."""
    process, family = services.process(name), services.remains(name)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=10)
    services.spawn(next(each for each in services.known() if each.name == name))
    say(f"{name}: started the server anew" if process is None else f"{name}: replaced the server")


def say(text: str) -> None:
    """Write a line with its time to the log."""
    print(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # how `make down` ends it
        main()
