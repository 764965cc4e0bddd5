"""The supervisor: asks every replica for real answers all the time, and heals or replaces what gives none.

python -m flows.supervisor
"""

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from tritonclient.utils import InferenceServerException

from flows import addresses, journal, live, metrics, receipt, remains, repository, services
from flows.locking import Busy, alone
from flows.patient import DEADLINE_S, Patient, listening
from flows.recovery import recover
from flows.replicas import Replica, replicas
from flows.retirement import Retirement
from flows.sentinel import Sentinel
from tasks.package import public

PERIOD_S = 1.0  # between two canaries
LOAD_S = 15.0  # that a model may take to load


def main() -> None:
    """Watch until stopped, and say on the metrics port what is seen; trouble with one keeps no other from its care."""
    addresses.adopt()
    every, seen, said = replicas(), metrics.Seen(), dict[str, str]()
    metrics.serve(seen, every)
    Sentinel(every, say).start()
    care: dict[str, Callable[[], None]] = {"deploys": end_killed_deploys}
    care["versions"] = Retirement().attend
    care |= {each.name: partial(attend, each, Patient(each.name), seen) for each in every}
    care["door"] = partial(tend_door, Patient("door"), seen)
    care |= {name: partial(tend, Patient(name), seen) for name in services.REVIVED}
    while True:
        time.sleep(PERIOD_S)
        for name, look in care.items():
            wrong = trouble(look)
            if wrong and said.get(name) != wrong:
                say(f"{name}: {wrong}")
            said[name] = wrong


def trouble(look: Callable[[], None]) -> str:
    """Look after something; say what kept us from it, empty where nothing did, or a deploy: it proves what it loads."""
    try:
        look()
    except Busy:
        pass
    except (ValueError, OSError, InferenceServerException) as error:
        return f"not healed yet: {error}"
    return ""


def attend(replica: Replica, patient: Patient, seen: metrics.Seen) -> None:
    """Ask a replica for an answer of each live pipeline; where one is missing or wrong, heal it once it is due."""
    sick = complaints(replica, seen)
    if not sick:
        patient.is_well()
    elif not patient.is_coming_up(replica) and patient.is_due():
        with alone():
            patient.is_treated()
            heal(replica, sick, seen)


def complaints(replica: Replica, seen: metrics.Seen) -> dict[str, str]:
    """Return what is wrong with each live pipeline on a replica; one that hangs is not asked for each."""
    if not listening(replica):
        return dict.fromkeys(receipt.pipelines() or ["nothing live yet"], "no answer")
    return {name: why for name in receipt.pipelines() if (why := complaint(name, replica, seen))}


def end_killed_deploys() -> None:
    """Undo or finish what a killed deploy began; one that is under way holds the lock."""
    if journal.pending() and all(map(listening, replicas())):
        with alone(), live.fleet() as clients:
            for pipeline in journal.pending():
                say(recover(clients, pipeline) or f"{pipeline}: its deploy has ended")


def complaint(pipeline: str, replica: Replica, seen: metrics.Seen) -> str | None:
    """Send the canary, a golden sample, through all of a pipeline; say what is wrong, None where nothing is.

    A health address tells nothing: it answers 200 while every inference fails. One that is only busy is left to its
    work: replaced, it would leave all of it to the others.
    """
    found = receipt.canary(pipeline)
    if found is None:
        return None
    sample, label = found
    try:
        with replica.client() as client:
            name = client.get_model_metadata(pipeline, client_timeout=DEADLINE_S).inputs[0].name
            asked = [live.of_bytes([sample], name)]
            begun = time.perf_counter()
            answer = client.infer(pipeline, asked, request_id=live.OURS, client_timeout=DEADLINE_S)
            seconds = time.perf_counter() - begun
            given = answer.as_numpy("label").ravel()[0].decode()
    except InferenceServerException as error:
        late = "DEADLINE" in str(error.status())
        return None if late and busy(pipeline, replica) else str(error.message() or error)[:200]
    if given != label:
        return f"answered '{given}' instead of '{label}'"
    seen.answered(pipeline, replica.name, seconds)
    return None


def busy(pipeline: str, replica: Replica) -> bool:
    """Tell whether a pipeline's engine answers others meanwhile; one answer may be that to our own canary, late."""
    engine, counts = repository.names(pipeline, repository.live_version(pipeline))[1], list[int]()
    with replica.client() as client:
        for _ in range(2):
            found = client.get_inference_statistics(engine, client_timeout=LOAD_S).model_stats[0]
            counts.append(found.inference_count)
            time.sleep(PERIOD_S / 2)
    return counts[0] + 1 < counts[1]


def heal(replica: Replica, sick: dict[str, str], seen: metrics.Seen) -> None:
    """Replace a replica's process: the door asks the others meanwhile; a lone one loads the sick anew first."""
    for pipeline, why in sick.items():
        say(f"{replica.name}: {pipeline}: {why}")
    if replicas() == [replica] and services.process(replica.name) is not None and listening(replica):
        try:
            for pipeline in sick:
                reload(replica, pipeline)
            if not [name for name in sick if complaint(name, replica, seen)]:
                say(f"{replica.name}: healed {', '.join(sick)} by loading anew")
                return
        except InferenceServerException as error:
            say(f"{replica.name}: loading anew failed: {error.message()}")
    replace(replica.name, seen)


def reload(replica: Replica, pipeline: str) -> None:
    """Unload and load a pipeline's live parts: a load alone does nothing for a version that the server holds."""
    with replica.client() as client:
        for model in repository.names(pipeline, repository.live_version(pipeline)):
            client.unload_model(model, client_timeout=LOAD_S)
            client.load_model(model, client_timeout=LOAD_S)
        for model in public(pipeline):
            client.load_model(model, client_timeout=LOAD_S)


def tend_door(patient: Patient, seen: metrics.Seen) -> None:
    """Replace the door where it does not answer, unless it has nobody to ask."""
    door = service(patient.name)
    if services.process(door.name) is not None and services.answers(door.health, DEADLINE_S):
        patient.is_well()
    elif any(map(listening, replicas())) and patient.is_due():
        patient.is_treated()
        replace(door.name, seen)


def tend(patient: Patient, seen: metrics.Seen) -> None:
    """Start Prefect, MLflow's UI or the worker anew where its process is gone; one of the caller's own is not ours."""
    if services.process(patient.name) is not None:
        patient.is_well()
    elif remains.is_noted(patient.name) and patient.is_due():
        patient.is_treated()
        for name in services.start([service(patient.name)]):
            started(name, "started the server anew", seen)


def replace(name: str, seen: metrics.Seen) -> None:
    """End a server's process and all of its children at once, and start another; runs that a worker started go on."""
    with services.one_starter():
        words = "started the server anew" if services.process(name) is None else "replaced the server"
        services.end_remains(service(name))
        services.spawn(service(name))
    started(name, words, seen)


def started(name: str, words: str, seen: metrics.Seen) -> None:
    """Count and say that a server was started."""
    seen.restarts[name] += 1
    say(f"{name}: {words}")


def service(name: str) -> services.Service:
    """Return how to start a server; `ValueError` where params.yaml knows it no more."""
    found = [each for each in services.known() if each.name == name]
    if not found:
        raise ValueError(f"serving.replicas was lowered while {name} served; for this to count: make down, make up")
    return found[0]


def say(text: str) -> None:
    """Write a line with its time to the log."""
    print(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # how `make down` ends it
        main()
