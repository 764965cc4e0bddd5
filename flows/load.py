"""Load on a server over gRPC, in an open or a closed loop, and what came back; it knows nothing of Prefect.

Of four clients (tritonclient's and bare messages, threads and asyncio) this one takes the least CPU from a server on
the same cores: messages are made beforehand, and of an answer only the status is looked at.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

METHOD = "/inference.GRPCInferenceService/ModelInfer"
LATE_S = 0.005  # a request sent later than this behind its time: the client had no time for it
LATE_SHARE = 0.01  # of requests; more say that the client, not the server, is the limit
TIMEOUT_S = 10.0  # of one request
CONNECT_S = 5.0
MOST = 500_000  # requests of one measurement
UNANSWERED = 1024  # requests at a time: with more there is no use in sending on
OK = "OK"

Call = Callable[..., Awaitable[bytes]]


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
    stopped: bool  # before its time, with too many requests unanswered

    @property
    def client_is_the_limit(self) -> bool:
        """Tell whether the client could not keep its schedule: its times then are no server's."""
        return self.late > LATE_SHARE


@dataclass
class Tally:
    """What is noted on the way."""

    due: list[float] = field(default_factory=list)  # of what was answered
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    late: int = 0
    sent: int = 0
    ended: float = 0.0

    async def ask(self, call: Call, message: bytes, due: float, headers: tuple[tuple[str, str], ...]) -> None:
        """Ask once and note how it went."""
        import grpc

        self.sent += 1
        self.late += time.perf_counter() - due > LATE_S
        try:
            await call(message, timeout=TIMEOUT_S, metadata=headers)
        except grpc.aio.AioRpcError as error:
            self.statuses[error.code().name] += 1
        else:
            self.statuses[OK] += 1
            self.due.append(due)
            self.seconds.append(time.perf_counter() - due)
        self.ended = time.perf_counter()


def open_loop(target: Target, rate: float, seconds: float, seed: int = 0, most_unanswered: int = UNANSWERED) -> Load:
    """Send at Poisson times for `seconds`, whatever comes back: how a server stalls is seen by all who come meanwhile.

    Where more than `most_unanswered` requests wait for their answer, nothing more is sent. `ValueError` where nobody
    listens, or the measurement would have no end.
    """
    if not (rate > 0 and seconds > 0 and rate * seconds <= MOST):
        raise ValueError(f"load: {rate:g} requests/s for {seconds:g} s: at least one, and at most {MOST:,} of them")
    return asyncio.run(measured(target, lambda call: arrive(target, call, rate, seconds, seed, most_unanswered), rate))


def closed_loop(target: Target, in_flight: int, seconds: float) -> Load:
    """Keep `in_flight` requests under way for `seconds`; each counts from when it was sent."""
    if not (in_flight >= 1 and 0 < seconds <= 3600):
        raise ValueError(f"load: {in_flight} requests in flight for {seconds:g} s: at least 1, and at most 3600 s")
    return asyncio.run(measured(target, lambda call: take_turns(target, call, in_flight, seconds), None))


async def measured(target: Target, send: Callable[[Call], Awaitable[tuple[Tally, bool]]], rate: float | None) -> Load:
    """Connect, send, and count up."""
    import grpc

    async with grpc.aio.insecure_channel(target.address) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), CONNECT_S)
        except TimeoutError:
            raise ValueError(f"load: nobody answers gRPC at {target.address} within {CONNECT_S:g} s") from None
        begun, used = time.perf_counter(), time.process_time()
        tally, stopped = await send(channel.unary_unary(METHOD))
        return summary(tally, rate, begun, time.process_time() - used, stopped)


async def arrive(target: Target, call: Call, rate: float, seconds: float, seed: int, most: int) -> tuple[Tally, bool]:
    """Keep the schedule; say whether it was given up."""
    tally, under_way, messages = Tally(), set[asyncio.Task[None]](), cycle(target.messages)
    begun = time.perf_counter()
    for at in arrivals(rate, seconds, seed):
        await asyncio.sleep(begun + at - time.perf_counter())  # 0 or less lets answers in, too
        if len(under_way) > most:
            break
        task = asyncio.create_task(tally.ask(call, next(messages), begun + at, target.headers))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    stopped = len(under_way) > most
    await asyncio.gather(*under_way)
    return tally, stopped


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield Poisson times before the end, at least one."""
    draw = random.Random(seed)
    at = min(draw.expovariate(rate), 0.99 * seconds)
    while at < seconds:
        yield at
        at += draw.expovariate(rate)


async def take_turns(target: Target, call: Call, in_flight: int, seconds: float) -> tuple[Tally, bool]:
    """Ask, and once answered ask again, side by side."""
    tally, messages, end = Tally(), cycle(target.messages), time.perf_counter() + seconds

    async def again() -> None:
        while (now := time.perf_counter()) < end:
            await tally.ask(call, next(messages), now, target.headers)

    await asyncio.gather(*(again() for _ in range(in_flight)))
    return tally, False


def summary(tally: Tally, rate: float | None, begun: float, cpu_s: float, stopped: bool) -> Load:
    """Count up what was noted."""
    import numpy as np

    took, answered = max(tally.ended - begun, 1e-9), len(tally.seconds)
    ms = np.array(tally.seconds or [np.inf]) * 1e3
    in_order, quarter = ms[np.argsort(tally.due)] if answered else ms, max(1, answered // 4)
    growth = np.median(in_order[-quarter:]) - np.median(in_order[:quarter]) if answered else 0.0
    p50, p90, p99, most = (round(float(each), 3) for each in (*np.percentile(ms, [50, 90, 99]), ms.max()))
    return Load(
        asked_per_s=rate,
        sent=tally.sent,
        answered=answered,
        errors={status: n for status, n in sorted(tally.statuses.items()) if status != OK},
        achieved_per_s=round(answered / took, 2),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=most,
        growth_ms=round(float(growth), 3),
        late=tally.late / max(1, tally.sent),
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
