"""Load on a server over gRPC: open-loop, as independent clients make it, and closed-loop; what came back, in numbers.

Needs no Prefect.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.sender import NOT_SENT, Note, connected

MOST, MOST_IN_FLIGHT = 1_000_000, 10_000  # requests of one load
MOST_S = 600.0
LATE_MS, LATE_SHARE = 2.0, 0.5  # sends that are later at their p99, and make up this share of p99, are the limit
BEHIND_SHARE = 0.1  # so are those that lag behind by this share of the load's time: it was not the load asked for


@dataclass(frozen=True)
class Load:
    """What came of a load. Latencies are of answers without an error, in ms, from when each request was due."""

    asked_per_s: float | None  # None in a closed loop, which asks as quickly as it is answered
    seconds: float  # that requests were due in
    sent: int
    answered: int  # without an error
    errors: dict[str, int]  # by gRPC status; NOT_SENT by us
    achieved_per_s: float  # answers without an error that came within `seconds`
    p50_ms: float  # NaN where nothing was answered, as the two below
    p90_ms: float
    p99_ms: float
    rise_ms: float  # of the median from the first third to the last: a backlog that grows
    late_p99_ms: float  # how long after its time a request was sent
    client_limited: bool  # the client did not keep its schedule: latencies are its own, and the server may do better
    client_cores: float  # CPU seconds of this process in a second


def arrivals(rate: float, seconds: float, seed: int) -> Any:
    """Return when requests are due (s, from 0 to `seconds`): a Poisson process, the same for the same seed.

    `ValueError` where these are no number of requests or seconds that one load may have.
    """
    if not (rate > 0 and 0 < seconds <= MOST_S and 1 <= rate * seconds <= MOST):
        raise ValueError(
            f"load: {rate:g} requests/s for {seconds:g} s: give 1 to {MOST:,} requests in at most {MOST_S:g} s"
        )
    expected = rate * seconds
    generator = np.random.default_rng(seed)
    times = np.cumsum(generator.exponential(1 / rate, int(expected + 6 * expected**0.5 + 10)))
    return times[times < seconds]


def open_loop(
    address: str,
    requests: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    seed: int,
    timeout_s: float,
    most_in_flight: int = MOST_IN_FLIGHT,
    headers: Sequence[tuple[str, str]] = (),
) -> Load:
    """Send requests, taken in turn, when a Poisson process says so, whether answers come or not; wait for the last.

    Latency counts from the time a request was due, so a server that stalls is charged for all that queues up
    meanwhile (no coordinated omission). A request without an answer after `timeout_s` is an error, and one that finds
    `most_in_flight` before it is not sent. Source of the method: G. Tene, "How NOT to Measure Latency" (2013).
    """
    due = arrivals(rate, seconds, seed)
    with connected(address, requests, timeout_s, headers) as client:
        begun, busy = time.perf_counter(), time.process_time()
        for number, at in enumerate(due):
            if (early := begun + at - time.perf_counter()) > 0:
                time.sleep(early)
            if client.in_flight() >= most_in_flight:
                client.skip(begun + at)
            else:
                client.send(number, begun + at)
        client.drain()
        cores = (time.process_time() - busy) / (time.perf_counter() - begun)
    return summary(client.notes, rate, begun, seconds, cores)


def closed_loop(
    address: str,
    requests: Sequence[bytes],
    *,
    concurrency: int,
    seconds: float,
    timeout_s: float,
    headers: Sequence[tuple[str, str]] = (),
) -> Load:
    """Keep `concurrency` requests in flight for a time: the next is sent when one is answered; wait for the last.

    That shows the most a server answers; its latencies leave out the wait of those who would have asked meanwhile.
    """
    if concurrency < 1 or not 0 < seconds <= MOST_S:
        raise ValueError(f"load: {concurrency} in flight for {seconds:g} s: give 1 or more, at most {MOST_S:g} s")
    with connected(address, requests, timeout_s, headers) as client:
        begun, busy, number = time.perf_counter(), time.process_time(), 0
        while (now := time.perf_counter()) < begun + seconds and number < MOST:
            if number >= concurrency:
                client.answered.get()
                now = time.perf_counter()
            client.send(number, now)
            number += 1
        client.drain()
        cores = (time.process_time() - busy) / (time.perf_counter() - begun)
    return summary(client.notes, None, begun, seconds, cores)


def summary(notes: list[Note], rate: float | None, begun: float, seconds: float, cores: float) -> Load:
    """Turn what was noted of each request into the numbers of a load."""
    due, sent, done = (np.array([note[place] for note in notes]) for place in range(3))
    ok = np.array([note[3] == "OK" for note in notes], bool)
    went = np.array([note[3] != NOT_SENT for note in notes], bool)
    latency, when = 1e3 * (done - due)[ok], (due - begun)[ok]
    p50, p90, p99 = np.percentile(latency, [50, 90, 99]) if ok.any() else [np.nan] * 3
    late = float(np.percentile(1e3 * (sent - due)[went], 99)) if went.any() else 0.0
    first, last = latency[when < seconds / 3], latency[when > 2 * seconds / 3]
    return Load(
        asked_per_s=rate,
        seconds=seconds,
        sent=int(went.sum()),
        answered=int(ok.sum()),
        errors=dict(Counter(note[3] for note in notes if note[3] != "OK")),
        achieved_per_s=int((ok & (done <= begun + seconds)).sum()) / seconds,
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        rise_ms=float(np.median(last) - np.median(first)) if len(first) and len(last) else 0.0,
        late_p99_ms=late,
        client_limited=bool(late > LATE_MS and (late > BEHIND_SHARE * 1e3 * seconds or not late < LATE_SHARE * p99)),
        client_cores=cores,
    )
