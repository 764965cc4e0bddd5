"""The accuracy budget and what it rests on: paired intervals; and measuring time and memory in turns."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tasks import budget, footprint, measure
from tasks.interval import paired
from tasks.measure import SAMPLES, SINGLES, WARM_UP, summary, take_turns

STEPS: dict[str, tuple[str | None, str]] = {
    "torch-fp32": (None, "train"),
    "torch-autocast": ("torch-fp32", "mixed precision"),
    "onnx-fp32": ("torch-fp32", "export"),
    "onnx-fp16": ("onnx-fp32", "quantize fp16"),
    "onnx-int8.cpu": ("onnx-fp32", "quantize int8"),
    "onnx-int8.tensorrt": ("onnx-fp32", "quantize int8"),
    "onnxruntime-fp32": ("onnx-fp32", "build"),
    "onnxruntime-int8": ("onnx-int8.cpu", "build"),
    "openvino-int8": ("onnx-int8.cpu", "build"),
}


def row(accuracy: float = 0.995, low: float = -0.004876, high: float = 0.004876) -> dict[str, Any]:
    """Return a row as evaluate leaves it, without what names the step."""
    difference = {"gained": 1, "lost": 1, "delta": (low + high) / 2, "delta_low": low, "delta_high": high}
    return {"accuracy": accuracy, "low": 0.981955, "high": 0.998628, "n": 400, "agreement": 1.0, **difference}


def evaluated(**bounds: float) -> dict[str, Any]:
    """Return evaluate's rows: steps that ran, and an engine that could not."""
    rows: dict[str, Any] = {
        name: {"from": origin, "spent_by": spender, **row(**bounds)} for name, (origin, spender) in STEPS.items()
    }
    rows["tensorrt_rtx-int8"] = {"from": "onnx-int8.tensorrt", "spent_by": "build", "not_measured": "no NVIDIA driver"}
    return {"reference": "torch-fp32", "n": 400, "rows": rows}


# Intervals of paired differences.


def test_answers_that_did_not_change_differ_by_nothing() -> None:
    right = np.arange(400) % 10 > 0
    found = paired(right, right)
    assert (found["gained"], found["lost"], found["delta"]) == (0, 0, 0)
    assert -0.01 < found["delta_low"] == -found["delta_high"] < 0


def test_gained_and_lost_are_counted_and_the_difference_is_theirs() -> None:
    before = np.array([True] * 90 + [False] * 10)
    right = np.array([False] * 3 + [True] * 92 + [False] * 5)
    found = paired(right, before)
    assert (found["gained"], found["lost"], found["delta"]) == (5, 3, 0.02)
    back = paired(before, right)
    assert (back["delta_low"], back["delta_high"]) == (-found["delta_high"], -found["delta_low"])


@pytest.mark.parametrize(("gain", "loss"), [(0.04, 0.02), (0.05, 0.15)])
def test_95_of_100_intervals_cover_the_true_difference(gain: float, loss: float) -> None:
    draw = np.random.default_rng(0).random((2000, 400))
    covered = 0
    for each in draw:
        right, before = each >= loss, (each < loss) | (each >= loss + gain)  # the first are lost, the next gained
        found = paired(right, before)
        covered += found["delta_low"] <= gain - loss <= found["delta_high"]
    assert 0.935 <= covered / len(draw) <= 0.975


def test_more_samples_narrow_the_interval() -> None:
    widths = []
    for n in (100, 400, 1600):
        found = paired(np.arange(n) % 20 > 0, np.arange(n) % 20 != 1)
        widths.append(found["delta_high"] - found["delta_low"])
    assert widths[0] > 1.8 * widths[1] > 1.8 * 1.8 * widths[2]


# The budget.


def test_the_chosen_engine_is_a_rung_and_no_other_engine() -> None:
    names = [rung["step"] for rung in budget.table(evaluated(), "onnxruntime-int8")]
    assert names == [*list(STEPS)[:6], "onnxruntime-int8"]
    assert [rung["step"] for rung in budget.table(evaluated(), None)] == list(STEPS)[:6]


def test_what_the_server_answered_comes_last() -> None:
    *rungs, last = budget.table(evaluated(), "onnxruntime-int8", row(accuracy=0.99))
    assert (last["step"], last["from"], last["spent_by"]) == ("served", "onnxruntime-int8", "package, server")
    assert last["accuracy"] == 0.99 and rungs == budget.table(evaluated(), "onnxruntime-int8")


def test_the_budget_fits_80_columns_and_its_columns_are_aligned() -> None:
    for bounds in ({}, {"low": -1.0, "high": 1.0}, {"low": 0.1, "high": 0.2}):
        head, first, *others = budget.lines(budget.table(evaluated(**bounds), "onnxruntime-int8", row(**bounds)))
        assert all(len(line) <= 80 for line in (head, first, *others)) and first.endswith("n=400")
        column = head.index("spent by")
        for line, rung in zip(others, budget.table(evaluated(), "onnxruntime-int8", row())[1:], strict=True):
            assert line.startswith(f"{rung['step']} ") and line[column:] == rung["spent_by"]
            assert line[column - 1] == " " and "0.9950" in line


def test_points_are_percentage_points() -> None:
    line = budget.lines(budget.table(evaluated(low=-0.0123, high=0.0003), None))[2]
    assert "-0.60" in line and "-1.23 to +0.03" in line


# Memory.


def test_what_loading_takes_is_seen() -> None:
    def load() -> Callable[[Any], Any]:
        kept = np.ones(50_000_000, np.uint8)
        return lambda x: kept[0] + x

    assert 45 < (footprint.grown_mb(load, 1) or 0) < 80


def test_what_a_call_takes_for_a_moment_is_seen() -> None:
    assert 45 < (footprint.grown_mb(lambda: lambda x: np.ones(50_000_000, np.uint8).sum(), 1) or 0) < 80


def test_an_engine_that_does_not_load_has_no_footprint_and_takes_nobody_along() -> None:
    def load() -> Callable[[Any], Any]:
        raise RuntimeError("no such engine")

    assert footprint.grown_mb(load, 1) is None
    assert footprint.grown_mb(lambda: lambda x: x, 1) is not None


# Time.


@pytest.mark.parametrize("batches", [[1, 4], [4, 32], [1]])
def test_every_way_takes_its_turn_in_every_round(batches: list[int]) -> None:
    order: list[str] = []
    sizes: dict[str, Counter[int]] = {name: Counter() for name in ("a", "b", "c")}

    def way(name: str) -> Callable[[Any], Any]:
        def predict(x: Any) -> None:
            assert x.shape[1:] == (1, 2, 2) and x.flags["C_CONTIGUOUS"]
            sizes[name][len(x)] += 1
            order.append(name)

        return predict

    found = take_turns({name: way(name) for name in sizes}, np.zeros((8, 1, 2, 2), np.float32), 3, batches)
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns == ["a", "b", "c"] * 4, "to warm up, and three rounds"
    for name, (singles, rates) in found.items():
        assert [len(each) for each in singles] == [SINGLES] * 3
        assert list(rates) == batches and all(len(each) == 3 for each in rates.values())
        assert sizes[name][1] == WARM_UP * (2 if 1 in batches else 1) + 3 * SINGLES
        for size in set(batches) - {1}:
            assert sizes[name][size] == 2 + 3 * (SAMPLES // size)


def test_a_slow_network_is_called_less_often_yet_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LONG_S", 0.02)
    sizes: Counter[int] = Counter()

    def slow(x: Any) -> None:
        sizes[len(x)] += 1
        time.sleep(0.01 * len(x))

    singles, rates = take_turns({"slow": slow}, np.zeros((8, 1, 2, 2), np.float32), 3, [1, 4])["slow"]
    assert [len(each) for each in singles] == [measure.LEAST] * 3
    assert sizes == {1: 2 * 2 + 3 * measure.LEAST, 4: 1 + 3}, "two of a hundredth of a second to warm up, one of four"
    assert all(len(each) == 3 and max(each) <= 100 for each in rates.values())


def test_a_summary_keeps_the_rounds_and_the_throughput_of_every_batch() -> None:
    singles = [[0.001] * 99 + [0.1], [0.003] * 100]
    found = summary(singles, {1: [700.0, 300.0], 32: [9000.0, 8000.0], 128: [100.0, 90.0]}, threads=2)
    assert found["throughput"] == {"1": 500.0, "32": 8500.0, "128": 95.0}
    assert (found["batch"], found["images_per_s"], found["images_per_s_per_core"]) == (32, 8500.0, 4250.0)
    assert found["rounds"] == {"latency": [1.0, 3.0], "throughput": [9000.0, 8000.0]}
    assert found["calls"] == 200 and 1 <= found["p50_ms"] <= found["p90_ms"] == 3 <= found["p99_ms"]
