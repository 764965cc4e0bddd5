"""The arithmetic of tuning: which knobs to try, the highest rate that holds, what is better beyond noise, the plan."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from math import ceil, sqrt
from statistics import median
from typing import Any

LOWEST, HIGHEST = 20.0, 1e5  # requests/s that are looked at
COARSE, FINE = 1.6, 1.25  # step of a search that starts anywhere, and of one that starts near its end
CLOSE = 1.07  # two rates this near are one
HOPELESS = 0.6  # of the best capacity so far: what does not bear that is not looked into
REPEATS = 3  # measurements of a finalist's capacity, at least, to tell it from another's
WORTH = 1.05  # how much higher a capacity has to be to be worth other knobs


@dataclass(frozen=True)
class Knobs:
    """The knobs of the package section that a server's speed hangs on."""

    max_batch_size: int
    max_queue_delay_us: int
    instances: int
    threads: int

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"instances {self.instances}, threads {self.threads}, batch {self.max_batch_size}, "
            f"delay {self.max_queue_delay_us} us"
        )

    def lines(self) -> list[str]:
        """Return the lines of params.yaml, as they stand below `package:`."""
        return [f"      {name}: {value}" for name, value in asdict(self).items()]


def alternatives(now: Knobs, cores: int, largest_batch: int) -> Iterator[tuple[str, list[int]]]:
    """Give each knob with the other values to try, in the order in which they are likely to matter.

    Instances and threads are powers of two up to the cores, and the cores; batches a quarter and twice of what is.
    """
    powers = sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores})
    delays = [0, 500, 2000]
    batches = [max(1, now.max_batch_size // 4), min(2 * now.max_batch_size, largest_batch)]
    values = {"instances": powers, "threads": powers, "max_queue_delay_us": delays, "max_batch_size": batches}
    for name, options in values.items():
        if found := [each for each in options if each != getattr(now, name)]:
            yield name, found


def climb(now: Knobs, capacity: Callable[[Knobs], float | None], cores: int, largest_batch: int) -> dict[Knobs, float]:
    """Return the capacity of each combination tried, by a coordinate search: knob after knob, from the best so far.

    `capacity` returns None where no time is left: the search ends.
    """
    found: dict[Knobs, float] = {}
    best = now
    for name, values in [("instances", [now.instances]), *alternatives(now, cores, largest_batch)]:
        for knobs in [replace(best, **{name: value}) for value in values]:
            if knobs in found:
                continue
            measured = capacity(knobs)
            if measured is None:
                return found
            found[knobs] = measured
        best = max(found, key=lambda each: found[each] if each == best else found[each] / WORTH)
    return found


def highest(holds: Callable[[float], bool], start: float, step: float, lowest: float = LOWEST) -> float:
    """Return the highest rate that holds, within `CLOSE` of one that did not; 0 where not even the `lowest` does.

    Rates are tried from `start` up or down by `step` until one holds and one does not, then between the two.
    """
    good, bad, rate = 0.0, 0.0, min(max(start, lowest), HIGHEST)
    while not (good and bad):
        if holds(rate):
            good = rate
            if rate == HIGHEST:
                return good
            rate = min(rate * step, HIGHEST)
        else:
            bad = rate
            if rate == lowest:
                return 0.0
            rate = max(rate / step, lowest)
    while bad / good > CLOSE:
        rate = sqrt(good * bad)
        good, bad = (rate, bad) if holds(rate) else (good, rate)
    return good


def is_better(candidate: list[float], current: list[float]) -> bool:
    """Tell whether capacities are higher beyond noise: each above each of the others, and the medians by `WORTH`.

    With three against three, equal servers look so one time in 20 (the exact permutation test on ranks).
    """
    enough = min(len(candidate), len(current)) >= REPEATS
    return enough and min(candidate) > max(current) and median(candidate) > WORTH * median(current)


def plan(rates: list[float], capacity: float, headroom: float) -> list[dict[str, Any]]:
    """Return for each rate (requests/s) how many servers it needs, with one to lose, and what each then bears.

    A server is given at most `1 - headroom` of its capacity.
    """
    rows = []
    for rate in rates:
        servers = max(1, ceil(rate / (capacity * (1 - headroom)) - 1e-9))
        rows.append(
            {
                "requests_per_s": rate,
                "servers": servers,
                "servers_with_a_spare": servers + 1,
                "per_server_per_s": rate / servers,
            }
        )
    return rows
