"""The arithmetic of tuning, on made-up servers whose capacity is known."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from flows.tuning import CLOSE, COARSE, FINE, HIGHEST, LOWEST, Knobs, alternatives, climb, highest, is_better, plan

NOW = Knobs(max_batch_size=64, max_queue_delay_us=0, instances=1, threads=1)


def server(capacity: float, asked: list[float]) -> Callable[[float], bool]:
    """Make a server whose p99 holds up to a capacity."""

    def holds(rate: float) -> bool:
        asked.append(rate)
        return rate <= capacity

    return holds


@pytest.mark.parametrize(
    ("capacity", "start", "step"), list(product([21, 150, 997, 8_000], [30, 400, 9_000], [COARSE, FINE]))
)
def test_the_highest_rate_is_found_from_anywhere(capacity: float, start: float, step: float) -> None:
    asked: list[float] = []
    found = highest(server(capacity, asked), start, step)
    assert found <= capacity < found * CLOSE
    assert len(asked) == len(set(asked)), "no rate is measured twice"


def test_a_search_that_starts_near_needs_few_measurements() -> None:
    asked: list[float] = []
    highest(server(500, asked), 480, FINE)
    assert len(asked) <= 5


@pytest.mark.parametrize(("capacity", "expected"), [(0, 0), (LOWEST / 2, 0), (LOWEST, LOWEST), (1e9, HIGHEST)])
def test_a_search_ends_where_nothing_holds_and_where_everything_does(capacity: float, expected: float) -> None:
    asked: list[float] = []
    found = highest(server(capacity, asked), 100, COARSE)
    assert found == pytest.approx(expected, rel=CLOSE - 1)
    assert len(asked) < 30 and min(asked) >= LOWEST and max(asked) <= HIGHEST


def speed(knobs: Knobs) -> float:
    """A server with a best combination: two instances, one thread, half a millisecond, the largest batch."""
    rate = 100.0 * min(knobs.instances, 2) * (1 if knobs.threads == 1 else 0.7)
    return rate * (1.3 if knobs.max_queue_delay_us == 500 else 1) * (1.2 if knobs.max_batch_size == 128 else 1)


def test_the_search_goes_knob_by_knob_to_the_best_and_starts_with_what_is_packaged() -> None:
    found = climb(NOW, speed, cores=2, largest_batch=128)
    assert next(iter(found)) == NOW
    assert max(found, key=lambda knobs: found[knobs]) == Knobs(128, 500, 2, 1)
    assert len(found) == 7, "not the 2 x 2 x 3 x 3 of the grid"


def test_a_gain_within_noise_moves_no_knob() -> None:
    found = climb(NOW, lambda knobs: 103.0 if knobs.threads == 2 else 100.0, cores=2, largest_batch=128)
    assert {knobs.threads for knobs in found if knobs.max_queue_delay_us} == {1}


def test_a_search_without_time_keeps_what_it_has() -> None:
    given = iter([100.0, 120.0, None])
    found = climb(NOW, lambda _: next(given), cores=2, largest_batch=128)
    assert found == {NOW: 100.0, replace(NOW, instances=2): 120.0}


@pytest.mark.parametrize("cores", [1, 2, 6, 64])
def test_values_to_try_fit_the_machine_and_the_engine(cores: int) -> None:
    tried = dict(alternatives(NOW, cores, largest_batch=64))
    for name in ("instances", "threads"):
        assert all(1 < each <= cores for each in tried.get(name, []))
        assert cores == 1 or cores in tried[name]
    assert tried["max_batch_size"] == [16]
    assert tried["max_queue_delay_us"] == [500, 2000]


@pytest.mark.parametrize(
    ("candidate", "current", "better"),
    [
        ([120, 121, 130], [100, 101, 110], True),
        ([120, 121, 109], [100, 101, 110], False),  # one of them is not above all of the others
        ([103, 104, 105], [100, 101, 102], False),  # above, but by less than it is worth
        ([100, 100, 100], [100, 100, 100], False),
    ],
)
def test_better_is_above_every_measurement_and_worth_it(
    candidate: list[float], current: list[float], better: bool
) -> None:
    assert is_better(candidate, current) is better


def test_the_plan_gives_no_server_more_than_its_share() -> None:
    rows = plan([1, 70, 71, 700, 7001], capacity=100, headroom=0.3)
    assert [row["servers"] for row in rows] == [1, 1, 2, 10, 101]
    assert all(row["servers_with_a_spare"] == row["servers"] + 1 for row in rows)
    assert all(row["per_server_per_s"] <= 70 for row in rows)
    assert plan([100], capacity=100, headroom=0)[0]["servers"] == 1
