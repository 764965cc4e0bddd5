"""The load generator, against a real gRPC server in this process that does as a test wants."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from flows import load
from flows.sender import INFER, NOT_SENT, samples

REQUESTS = [samples("toy", "image", [bytes([i])]) for i in range(3)]


@contextmanager
def server(answer: Callable[[Any], None], workers: int = 8) -> Iterator[str]:
    """Serve inference: `answer` sleeps or aborts, else a request is answered at once."""

    def infer(request: bytes, context: Any) -> bytes:
        answer(context)
        return request

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(infer) if details.method == INFER else None

    made = grpc.server(futures.ThreadPoolExecutor(workers), handlers=[Handler()])
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        made.stop(0).wait()


def at_once(_: Any) -> None:
    """Answer without delay."""


def test_arrivals_are_a_poisson_process_that_a_seed_fixes() -> None:
    times = load.arrivals(1000, 20, seed=1)
    gaps = np.diff(times)
    assert np.array_equal(times, load.arrivals(1000, 20, seed=1))
    assert not np.array_equal(times[:100], load.arrivals(1000, 20, seed=2)[:100])
    assert abs(len(times) - 20_000) < 6 * 20_000**0.5 and times.max() < 20
    assert abs(gaps.mean() / gaps.std() - 1) < 0.03, "exponential gaps: mean and deviation are equal"


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (100, 0), (1e9, 1), (1, 0.5), (10, 1e4), (float("nan"), 1)])
def test_a_load_without_bound_or_content_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="requests/s for"):
        load.arrivals(rate, seconds, seed=0)


def test_an_open_loop_keeps_its_schedule_whatever_the_server_does() -> None:
    """Answers take 0.3 s each, a tenth of the time there is: a client that waited would send ten requests."""
    with server(lambda _: time.sleep(0.3), workers=200) as address:
        found = load.open_loop(address, REQUESTS, rate=60, seconds=2, seed=1, timeout_s=5)
    assert found.sent == found.answered == len(load.arrivals(60, 2, seed=1)) and not found.errors
    assert 300 <= found.p50_ms < 450
    assert found.late_p99_ms < 100


def test_a_stall_is_charged_to_all_that_were_due_meanwhile() -> None:
    """One stall of 200 ms in 2 s: a tenth of the requests wait, so p99 shows it, though one request alone was slow."""
    stalled, lock = [False], threading.Lock()
    begun = time.monotonic()

    def stall_once(_: Any) -> None:
        with lock:
            if time.monotonic() - begun > 1 and not stalled[0]:
                stalled[0] = True
                time.sleep(0.2)

    with server(stall_once) as address:
        open_loop = load.open_loop(address, REQUESTS, rate=150, seconds=2, seed=1, timeout_s=5)
        begun, stalled[0] = time.monotonic() - 0.5, False
        closed_loop = load.closed_loop(address, REQUESTS, concurrency=1, seconds=2, timeout_s=5)
    assert open_loop.p99_ms > 120 and open_loop.p50_ms < 50
    assert stalled[0] and closed_loop.p99_ms < 60, "a closed loop omits them: what the open loop is for"


def test_errors_are_counted_by_status_and_their_latency_is_no_answers() -> None:
    turns = iter(range(10**6))

    def third_fails(context: Any) -> None:
        if next(turns) % 3 == 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "exceeds maximum queue size")

    with server(third_fails, workers=1) as address:
        found = load.open_loop(address, REQUESTS, rate=100, seconds=1, seed=3, timeout_s=5)
    assert found.errors == {"UNAVAILABLE": -(-found.sent // 3)}
    assert found.answered == found.sent - found.errors["UNAVAILABLE"]


def test_an_answer_that_never_comes_is_an_error_in_time() -> None:
    waiting = threading.Event()
    with server(lambda _: waiting.wait(20) and None, workers=30) as address:
        begun = time.monotonic()
        found = load.open_loop(address, REQUESTS, rate=20, seconds=0.5, seed=1, timeout_s=0.5)
        waiting.set()
    assert time.monotonic() - begun < 5
    assert found.errors == {"DEADLINE_EXCEEDED": found.sent} and found.answered == 0
    assert np.isnan(found.p99_ms)


def test_what_is_in_flight_is_bounded_and_what_was_not_sent_is_an_error() -> None:
    with server(lambda _: time.sleep(0.5), workers=10) as address:
        found = load.open_loop(address, REQUESTS, rate=100, seconds=1, seed=1, timeout_s=5, most_in_flight=5)
    due = len(load.arrivals(100, 1, seed=1))
    assert found.sent + found.errors[NOT_SENT] == due
    assert found.sent <= 15


def test_a_backlog_that_grows_shows_as_a_rise() -> None:
    """One worker answers 50/s where 80/s come: the last wait long, though none fails."""
    with server(lambda _: time.sleep(0.02), workers=1) as address:
        growing = load.open_loop(address, REQUESTS, rate=80, seconds=2, seed=1, timeout_s=10)
        steady = load.open_loop(address, REQUESTS, rate=10, seconds=2, seed=1, timeout_s=10)
    assert growing.rise_ms > 200 and growing.achieved_per_s < 60
    assert abs(steady.rise_ms) < 50


def test_a_client_that_is_too_slow_says_so_in_place_of_blaming_the_server() -> None:
    """No Python client sends 100,000 requests a second."""
    with server(at_once) as address:
        over = load.open_loop(address, REQUESTS, rate=100_000, seconds=0.02, seed=1, timeout_s=60)
    with server(lambda _: time.sleep(0.1), workers=20) as address:
        under = load.open_loop(address, REQUESTS, rate=20, seconds=1, seed=1, timeout_s=5)
    assert over.client_limited and over.late_p99_ms > 100
    assert not under.client_limited


def test_a_closed_loop_keeps_its_concurrency_and_ends_in_time() -> None:
    now, most, lock = [0], [0], threading.Lock()

    def count(_: Any) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    with server(count) as address:
        found = load.closed_loop(address, REQUESTS, concurrency=4, seconds=1, timeout_s=5)
    assert most[0] == 4
    assert 40 <= found.answered <= 84 and found.asked_per_s is None


def test_nobody_there_is_said_with_the_address() -> None:
    with pytest.raises(ValueError, match="nobody answers gRPC at 127"):
        load.closed_loop("127.0.0.1:9", REQUESTS, concurrency=1, seconds=1, timeout_s=1)


def test_a_request_is_what_tritons_own_client_sends() -> None:
    import tritonclient.grpc as triton

    encoded = [b"one", b"three"]
    theirs = triton.InferInput("image", [2, 1], "BYTES")
    theirs.set_data_from_numpy(np.array(encoded, dtype=object).reshape(2, 1))
    ours = service_pb2.ModelInferRequest.FromString(samples("toy", "image", encoded, priority=2))
    assert ours.raw_input_contents[0] == theirs._get_content()
    assert list(ours.inputs) == [theirs._get_tensor()]
    assert ours.parameters["priority"].uint64_param == 2


def test_ctrl_c_ends_a_load_between_two_requests_and_never_hangs_it() -> None:
    """Within a call of gRPC it would leave a lock held, and the connection's end would wait for that."""
    before = signal.getsignal(signal.SIGINT)
    with server(at_once) as address:
        for number in range(30):
            threading.Timer(0.1 + 0.003 * number, os.kill, (os.getpid(), signal.SIGINT)).start()
            begun = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                load.open_loop(address, REQUESTS, rate=2000, seconds=30, seed=number, timeout_s=5)
            assert time.monotonic() - begun < 5
    assert signal.getsignal(signal.SIGINT) is before
