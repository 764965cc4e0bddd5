"""Load on a server over gRPC, in an open or a closed loop, and what came back; it knows nothing of Prefect.

The client shares cores with the server, so it is lean: messages are made beforehand, and of an answer only the status
is looked at. That took 10 % less CPU than tritonclient's `async_infer`; asyncio takes no less, and is 1 ms late.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

METHOD = "/inference.GRPCInferenceService/ModelInfer"
LATE_S = 0.005  # a request sent later than this behind its time: the client had no time for it
BEHIND_S = 0.5  # later than this: it gives up
LATE_SHARE = 0.01  # of requests; more say that the client, not the server, is the limit
TIMEOUT_S = 10.0  # of one request
CONNECT_S = 5.0
MOST = 500_000  # requests of one measurement
UNANSWERED = 1024  # requests at a time: with more there is no use in sending on
OK = "OK"


@dataclass(frozen=True)
class Target:
    """A server's gRPC address, the messages that are sent to it in turn, and their headers."""

    address: str  # 127.0.0.1:8001
    messages: Sequence[bytes]
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Load:
    """What came back. Times count from when a request was due, in ms; those of requests that failed do not count."""

    asked_per_s: float | None  # None: a closed loop, as many as it gets
    sent: int
    answered: int
    errors: dict[str, int]  # status: how many
    achieved_per_s: float
    p50_ms: float  # infinite where nothing was answered
    p90_ms: float
    p99_ms: float
    max_ms: float
    growth_ms: float  # the last quarter's median less the first quarter's: a backlog that grows
    late: float  # share of requests that were sent more than 5 ms behind their time
    client_cores: float  # CPU seconds a second that the client itself used
    stopped: bool  # before its time: too many requests were unanswered, or the client was far behind

    @property
    def client_is_the_limit(self) -> bool:
        """Tell whether the client could not keep its schedule: its times then are no server's."""
        return self.late > LATE_SHARE


@dataclass
class Sender:
    """Sends requests and notes how they went; answers come in another thread."""

    call: Any
    messages: Iterator[bytes]
    headers: tuple[tuple[str, str], ...]
    sent: int = 0
    late: int = 0
    back: list[tuple[float, float, str]] = field(default_factory=list)  # due, until, status

    def send(self, due: float, then: Callable[[], object] = bool) -> None:
        """Send one request that was due at a time; do something once it is answered."""

        def note(future: Any) -> None:
            self.back.append((due, time.perf_counter(), future.code().name))
            then()

        self.late += time.perf_counter() - due > LATE_S
        self.sent += 1
        self.call.future(next(self.messages), timeout=TIMEOUT_S, metadata=self.headers).add_done_callback(note)

    def unanswered(self) -> int:
        """Return how many requests are under way."""
        return self.sent - len(self.back)

    def await_all(self) -> None:
        """Wait for what is under way; each has its deadline."""
        while self.unanswered():
            time.sleep(0.001)


def open_loop(target: Target, rate: float, seconds: float, seed: int = 0, most_unanswered: int = UNANSWERED) -> Load:
    """Send at Poisson times for `seconds`, whatever comes back: how a server stalls is seen by all who come meanwhile.

    Where more than `most_unanswered` requests wait for their answer, or the client is half a second behind, nothing
    more is sent. `ValueError` where nobody listens, or the measurement would have no end.
    """
    if not (rate > 0 and seconds > 0 and rate * seconds <= MOST):
        raise ValueError(f"load: {rate:g} requests/s for {seconds:g} s: at least one, and at most {MOST:,} of them")

    def keep_schedule(sender: Sender) -> bool:
        begun = time.perf_counter()
        for at in arrivals(rate, seconds, seed):
            if (early := begun + at - time.perf_counter()) > 0:
                time.sleep(early)
            if sender.unanswered() > most_unanswered or early < -BEHIND_S:
                return False
            sender.send(begun + at)
        return True

    return measured(target, keep_schedule, rate)


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield Poisson times before the end, at least one."""
    draw = random.Random(seed)
    at = min(draw.expovariate(rate), 0.99 * seconds)
    while at < seconds:
        yield at
        at += draw.expovariate(rate)


def closed_loop(target: Target, in_flight: int, seconds: float) -> Load:
    """Keep `in_flight` requests under way for `seconds`; each counts from when it was sent."""
    if not (in_flight >= 1 and 0 < seconds <= 3600):
        raise ValueError(f"load: {in_flight} requests in flight for {seconds:g} s: at least 1, and at most 3600 s")
    free = threading.Semaphore(in_flight)

    def take_turns(sender: Sender) -> bool:
        end = time.perf_counter() + seconds
        while free.acquire() and (now := time.perf_counter()) < end:
            sender.send(now, free.release)
        return True

    return measured(target, take_turns, None)


def measured(target: Target, work: Callable[[Sender], bool], rate: float | None) -> Load:
    """Connect, send, wait for the answers and count up; `work` says whether it came to its end."""
    import grpc

    with grpc.insecure_channel(target.address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_S)
        except grpc.FutureTimeoutError:
            raise ValueError(f"load: nobody answers gRPC at {target.address} within {CONNECT_S:g} s") from None
        sender = Sender(channel.unary_unary(METHOD), cycle(target.messages), target.headers)
        begun, used = time.perf_counter(), time.process_time()
        stopped = not work(sender)
        sender.await_all()
        return summary(sender, rate, begun, time.process_time() - used, stopped)


def summary(sender: Sender, rate: float | None, begun: float, cpu_s: float, stopped: bool) -> Load:
    """Count up what was noted."""
    import numpy as np

    took = max(until for _, until, _ in sender.back) - begun
    ms = np.array([1e3 * (until - due) for due, until, status in sorted(sender.back) if status == OK])
    answered, quarter = len(ms), max(1, len(ms) // 4)
    growth = float(np.median(ms[-quarter:]) - np.median(ms[:quarter])) if answered else 0.0
    times = (*np.percentile(ms, [50, 90, 99]), ms.max()) if answered else [np.inf] * 4
    p50, p90, p99, longest = (round(float(each), 3) for each in times)
    return Load(
        asked_per_s=rate,
        sent=sender.sent,
        answered=answered,
        errors={status: n for status, n in sorted(Counter(s for *_, s in sender.back).items()) if status != OK},
        achieved_per_s=round(answered / took, 2),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=longest,
        growth_ms=round(growth, 3),
        late=sender.late / sender.sent,
        client_cores=round(cpu_s / took, 3),
        stopped=stopped,
    )


def messages(model: str, name: str, samples: Sequence[bytes], batch: int = 1) -> list[bytes]:
    """Return requests for a model, `batch` encoded samples each, as bytes; what is left over is left out."""
    from tritonclient.grpc import service_pb2

    found = []
    for start in range(0, len(samples) - batch + 1, batch):
        request: Any = service_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name=name, datatype="BYTES", shape=[batch, 1])
        parts = [len(each).to_bytes(4, "little") + each for each in samples[start : start + batch]]
        request.raw_input_contents.append(b"".join(parts))
        found.append(request.SerializeToString())
    if not found:
        raise ValueError(f"load: {len(samples)} samples make no request of {batch}")
    return found
