"""The supervisor: asks the live server for real answers all the time, and heals or replaces it where none comes.

python -m flows.supervisor
"""

import contextlib
import time
from datetime import UTC, datetime

import psutil
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from flows import addresses, journal, live, receipt, repository, services
from flows.locking import Busy, alone
from flows.recovery import recover
from tasks.package import public

PERIOD_S, DEADLINE_S = 1.0, 5.0  # between two canaries; for one to answer
START_S, LOAD_S = 45.0, 15.0  # that a server may take to come up; a model to load
BACK_OFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # before the first, second, ... attempt in a row


def main() -> None:
    """Watch until stopped."""
    addresses.adopt()
    attempts, was_well = 0, 0.0  # in a row; the start of the server that last answered right
    while True:
        time.sleep(PERIOD_S)
        end_killed_deploys()
        sick = {name: why for name in receipt.pipelines() if (why := complaint(name))}
        if not sick:
            attempts, was_well = 0, started()
            continue
        if started() != was_well and time.time() - started() < START_S and not listening():
            continue  # it is coming up
        time.sleep(BACK_OFF_S[min(attempts, len(BACK_OFF_S) - 1)])
        attempts += 1
        try:
            with alone():
                heal(sick)
        except Busy:
            continue  # it proves what it loads
        except (ValueError, InferenceServerException) as error:
            say(f"not healed yet: {error}")


def end_killed_deploys() -> None:
    """Undo or finish what a killed deploy began; one that is under way holds the lock."""
    if not journal.pending() or not listening():
        return
    try:
        with alone(), triton.InferenceServerClient(addresses.address("TRITON_GRPC")) as client:
            for pipeline in journal.pending():
                say(recover(client, pipeline) or f"{pipeline}: its deploy has ended")
    except Busy:
        return
    except (ValueError, InferenceServerException) as error:
        say(f"a deploy is not ended yet: {error}")


def complaint(pipeline: str) -> str | None:
    """Send the canary, a golden sample, through all of a pipeline; say what is wrong, None where nothing is.

    A health address tells nothing: it answers 200 while every inference fails.
    """
    found = receipt.canary(pipeline)
    if found is None:
        return None
    sample, label = found
    try:
        client = triton.InferenceServerClient(addresses.address("TRITON_GRPC"))
        with client:
            name = client.get_model_config(pipeline, client_timeout=DEADLINE_S).config.input[0].name
            asked = live.of_bytes([sample], name)
            answer = client.infer(pipeline, [asked], client_timeout=DEADLINE_S).as_numpy("label").ravel()[0].decode()
    except InferenceServerException as error:
        return str(error.message() or error)[:200]
    return None if answer == label else f"answered '{answer}' instead of '{label}'"


def started() -> float:
    """Return when the server's process was started, in seconds since 1970; 0 where there is none."""
    process = services.process("triton")
    return process.create_time() if process else 0.0


def listening() -> bool:
    """Tell whether the server answers anything at all."""
    try:
        with triton.InferenceServerClient(addresses.address("TRITON_GRPC")) as client:
            return bool(client.is_server_live(client_timeout=DEADLINE_S))
    except InferenceServerException:
        return False


def heal(sick: dict[str, str]) -> None:
    """Load the models of sick pipelines anew; where the server does not take that, replace its process."""
    for pipeline, why in sick.items():
        say(f"{pipeline}: {why}")
    if services.process("triton") is not None and listening():
        try:
            for pipeline in sick:
                reload(pipeline)
            if not [name for name in sick if complaint(name)]:
                say(f"healed {', '.join(sick)} by loading anew")
                return
        except InferenceServerException as error:
            say(f"loading anew failed: {error.message()}")
    replace()


def reload(pipeline: str) -> None:
    """Unload and load a pipeline's live parts: a load alone does nothing for a version that the server holds."""
    with triton.InferenceServerClient(addresses.address("TRITON_GRPC")) as client:
        for model in repository.names(pipeline, repository.live_version(pipeline)):
            client.unload_model(model, client_timeout=LOAD_S)
            client.load_model(model, client_timeout=LOAD_S)
        for model in public(pipeline):
            client.load_model(model, client_timeout=LOAD_S)


def replace() -> None:
    """End the server's process and all of its children at once, and start another."""
    process = services.process("triton")
    if process is not None:
        family = [process, *process.children(recursive=True)]
        for each in family:
            each.kill()
        psutil.wait_procs(family, timeout=10)
    services.spawn(next(each for each in services.known() if each.name == "triton"))
    say("started the server anew" if process is None else "replaced the server")


def say(text: str) -> None:
    """Write a line with its time to the log."""
    print(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # how `make down` ends it
        main()
