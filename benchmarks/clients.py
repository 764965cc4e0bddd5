"""One HTTP client for every server: the same bytes over kept connections, in an open or a closed loop.

It parses no more than an answer's status and length, so that on shared cores it takes little from the server.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LATE_S = 0.005  # a request sent later than this behind its time says that the client, not the server, is the limit


@dataclass
class Tally:
    """What came back: seconds from the time a request was due to the end of its answer, and what failed."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    late: int = 0
    took_s: float = 0.0

    def row(self) -> dict[str, Any]:
        """Return answers per second, p50, p99 and the longest (ms), and how many were answered, failed, late."""
        p50, p99 = (round(float(value) * 1e3, 3) for value in np.percentile(self.seconds or [np.inf], [50, 99]))
        return {
            "requests_per_s": round(len(self.seconds) / self.took_s, 1),
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": round(max(self.seconds, default=np.inf) * 1e3, 3),
            "n": len(self.seconds),
            "failed": len(self.failures),
            "late": self.late,
        }


class Connection(asyncio.Protocol):
    """A kept connection with one request at a time under way."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.buffer = bytearray()
        self.answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect an answer; hand on its status once it is whole."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if len(self.buffer) < end + 4 + int(length or 0):
            return
        status = int(head.split(b" ", 2)[1])
        self.buffer.clear()
        if self.answer and not self.answer.done():
            self.answer.set_result(status)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what is under way."""
        if self.answer and not self.answer.done():
            self.answer.set_exception(error or ConnectionError("closed by the server"))

    async def ask(self, request: bytes) -> int:
        """Send a request and return its answer's status."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return a POST request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def open_loop(port: int, request: bytes, rate: float, seconds: float, seed: int = 0) -> Tally:
    """Send at Poisson times whatever comes back; latency counts from the time a request was due."""
    end = time.perf_counter() + seconds
    return asyncio.run(arrive(port, request, rate, lambda due: due > end, seed))


async def arrive(port: int, request: bytes, rate: float, ended: Callable[[float], bool], seed: int) -> Tally:
    """Keep the schedule until a due time is past the end; connections are opened as more are under way at once."""
    draw, tally, idle, tasks = random.Random(seed), Tally(), list[Connection](), set[asyncio.Task[None]]()
    idle += [await connect(port) for _ in range(8)]
    begun = due = time.perf_counter()
    while not ended(due := due + draw.expovariate(rate)):
        if (wait := due - time.perf_counter()) > 0.0005:
            await asyncio.sleep(wait - 0.0003)
        else:
            await asyncio.sleep(0)
        tally.late += time.perf_counter() - due > LATE_S
        task = asyncio.create_task(one(port, request, due, idle, tally))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=10)
    tally.failures += ["no answer"] * len(tasks)
    tally.took_s = time.perf_counter() - begun
    return tally


async def one(port: int, request: bytes, due: float, idle: list[Connection], tally: Tally) -> None:
    """Ask once and note how it went."""
    try:
        connection = await kept(port, idle)
        status = await connection.ask(request)
    except OSError as error:
        tally.failures.append(repr(error))
        return
    if status == 200:
        tally.seconds.append(time.perf_counter() - due)
    else:
        tally.failures.append(str(status))
    idle.append(connection)


async def kept(port: int, idle: list[Connection]) -> Connection:
    """Return a connection that is not under way; those that the server closed meanwhile, as unused, are let go."""
    while idle:
        connection = idle.pop()
        if not connection.transport.is_closing():
            return connection
    return await connect(port)


async def connect(port: int) -> Connection:
    """Open a connection on loopback."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


def closed_loop(port: int, request: bytes, connections: int, seconds: float) -> Tally:
    """Keep a number of requests under way, each connection's next as soon as its last is answered."""
    return asyncio.run(take_turns(port, request, connections, seconds))


async def take_turns(port: int, request: bytes, connections: int, seconds: float) -> Tally:
    """Run the connections side by side."""
    tally, begun = Tally(), time.perf_counter()
    opened = [await connect(port) for _ in range(connections)]

    async def loop(connection: Connection) -> None:
        while (sent := time.perf_counter()) < begun + seconds:
            status = await connection.ask(request)
            if status == 200:
                tally.seconds.append(time.perf_counter() - sent)
            else:
                tally.failures.append(str(status))

    await asyncio.gather(*map(loop, opened))
    tally.took_s = time.perf_counter() - begun
    return tally


def highest(port: int, request: bytes, bound_ms: float, seconds: float) -> dict[str, Any]:
    """Return the row of the highest rate whose p99 keeps the bound with no failure.

    The first rate is half of what eight connections get in a closed loop; it grows by 3/10 until it does not hold, then
    the gap is halved until it is 3 %.
    """
    best, low, high = dict[str, Any](), 0.0, 0.0
    rate, steps = closed_loop(port, request, 8, seconds).row()["requests_per_s"] / 2, 0
    while steps < 12 and (not high or high / max(low, 1) > 1.03):
        steps += 1
        row = open_loop(port, request, rate, seconds, steps).row()
        if row["p99_ms"] <= bound_ms and not row["failed"]:
            low, best = rate, row | {"asked_per_s": round(rate, 1)}
        else:
            high = rate
        rate = low * 1.3 if not high else (low + high) / 2 if low else high * 0.6
        time.sleep(0.3)
    return best
