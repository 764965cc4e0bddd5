"""The supervisor: whatever dies or hangs in the server, real answers come again within seconds."""

import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.conftest import Miniature


def server(system: Miniature) -> psutil.Process:
    """Return the living process of the copy's Triton."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["cwd"] == str(system.folder) and "/tritonserver " in words:
            found.append(process)
    (alive,) = found
    return alive


def stub(system: Miniature) -> psutil.Process:
    """Return the process that runs the live engine."""
    return next(
        each for each in server(system).children(recursive=True) if "fashion_engine" in " ".join(each.cmdline())
    )


def answers(system: Miniature) -> bool:
    """Ask for a real inference."""
    x = np.zeros((1, 1, 28, 28), np.float32)
    asked = triton.InferInput("input", x.shape, "FP32").set_data_from_numpy(x)
    try:
        with triton.InferenceServerClient(system.url("TRITON_GRPC").removeprefix("http://")) as client:
            client.infer("fashion_tensor", [asked], client_timeout=2)
    except InferenceServerException:
        return False
    return True


def kill_stub(system: Miniature) -> None:
    stub(system).send_signal(signal.SIGKILL)


def kill_server(system: Miniature) -> None:
    server(system).send_signal(signal.SIGKILL)


def stop_server(system: Miniature) -> None:
    """It hangs: alive, and silent."""
    server(system).send_signal(signal.SIGSTOP)


@pytest.mark.parametrize(
    ("harm", "within_s"),
    [(kill_stub, 10), (kill_server, 30), pytest.param(stop_server, 60, marks=pytest.mark.slow)],
    ids=["stub killed", "server killed", "server hangs"],
)
def test_real_answers_come_again_by_themselves(
    ran: Miniature, harm: Callable[[Miniature], Any], within_s: float
) -> None:
    assert answers(ran)
    time.sleep(3)  # the supervisor has seen it well, too
    harm(ran)
    begun = time.monotonic()
    assert not answers(ran), "it did harm"
    while not answers(ran):
        assert time.monotonic() - begun < within_s, (ran.folder / ".state/logs/supervisor.log").read_text()[-2000:]
        time.sleep(0.1)
