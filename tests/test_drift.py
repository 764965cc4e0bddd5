"""Drift: told from chance, by value, bound and n; and what the monitor compares is what a served model notes."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import drift
from flows.checks import BREACH, OK, UNKNOWN
from tasks import reference

ROOT = Path(__file__).resolve().parents[1]
BOUNDS = drift.knobs("fashion")
CLASSES = ["cat", "dog", "fish"]
RANDOM = np.random.default_rng(0)


def answers(n: int, shift: float = 0.0, stretch: float = 1.0, shares: Any = (1, 1, 1), sure: float = 8.0) -> list[Any]:
    """Return sampled answers of a model that sees one channel, as the log has them."""
    labels = RANDOM.choice(CLASSES, n, p=np.array(shares) / sum(shares))
    confidences = RANDOM.beta(sure, 1, n)
    means, deviations = RANDOM.normal(shift, 1, n), stretch * RANDOM.gamma(20, 0.05, n)
    rows = zip(labels, confidences, means, deviations, strict=True)
    return [
        {"label": label, "confidence": sure, "input": {"mean": [mean], "std": [std]}} for label, sure, mean, std in rows
    ]


def made(n: int = 1000) -> dict[str, Any]:
    """Return the reference of such a model."""
    rows = answers(n)
    return {
        "labels": {name: sum(row["label"] == name for row in rows) for name in CLASSES},
        "confidence": [row["confidence"] for row in rows],
        "input": {name: [[row["input"][name][0] for row in rows]] for name in ("mean", "std")},
    }


@pytest.mark.parametrize("n", [200, 2000])
def test_the_same_data_are_no_drift(n: int) -> None:
    for _ in range(20):
        kept, rows = made(), answers(n)
        found = [drift.inputs(kept, rows, BOUNDS), *drift.answers(kept, rows, BOUNDS)]
        assert {each.verdict for each in found} == {OK}, found


def test_brighter_and_flatter_inputs_are_named_with_the_statistic() -> None:
    brighter = drift.inputs(made(), answers(300, shift=1.0), BOUNDS)
    assert brighter.verdict == BREACH and "mean of channel 0" in brighter.why and brighter.n == 300
    assert brighter.value is not None and brighter.value > BOUNDS.max_input_drift == brighter.bound
    flatter = drift.inputs(made(), answers(300, stretch=0.7), BOUNDS)
    assert flatter.verdict == BREACH and "std of channel 0" in flatter.why


def test_another_mix_of_classes_and_less_confidence_are_told_apart() -> None:
    mix, sure = drift.answers(made(), answers(300, shares=(4, 1, 1)), BOUNDS)
    assert (mix.verdict, sure.verdict) == (BREACH, OK) and "cat" in mix.why
    mix, sure = drift.answers(made(), answers(300, sure=2.0), BOUNDS)
    assert (mix.verdict, sure.verdict) == (OK, BREACH)


def test_a_small_change_is_none_however_many_samples_prove_it() -> None:
    found = drift.inputs(made(20_000), answers(20_000, shift=0.1), BOUNDS)
    assert found.verdict == OK and found.value is not None and 0.02 < found.value < 0.08


def test_few_samples_are_not_judged_and_say_what_to_do() -> None:
    found = [drift.inputs(made(), answers(20, shift=9), BOUNDS), *drift.answers(made(), answers(20), BOUNDS)]
    assert {each.verdict for each in found} == {UNKNOWN} and all("20 sampled answers of" in each.why for each in found)
    bare = [{name: row[name] for name in ("label", "confidence")} for row in answers(300)]
    assert "observe.keep" in drift.inputs(made(), bare, BOUNDS).why


@pytest.mark.parametrize(("right", "n", "verdict"), [(40, 45, UNKNOWN), (80, 100, OK), (60, 100, BREACH), (38, 50, OK)])
def test_accuracy_is_broken_only_where_chance_can_not_be_why(right: int, n: int, verdict: str) -> None:
    found = drift.accuracy(0.9, right, n, BOUNDS)
    assert (found.verdict, found.n) == (verdict, n)
    assert verdict == UNKNOWN or f"{right} of {n} answers were right" in found.why


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (5, 1, 4, 6), (5, 7)], ids=str)
def test_the_reference_takes_the_statistics_that_a_served_model_notes(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "infra/serving/repository"))
    from observed import Log

    x, scores = RANDOM.normal(2, 3, shape).astype(np.float32), np.eye(5, 3, dtype=np.float32)
    lines = Log(ROOT, "toy", 1, CLASSES, 1.0, 1000, "statistics").lines([(0.0, *each) for each in zip(x, scores)])  # noqa: B905
    noted = [json.loads(line)["input"] for line in lines]
    ours = reference.moments(x)
    for name in ours:
        theirs = np.array([each[name] for each in noted])
        assert ours[name].shape == theirs.shape and np.allclose(ours[name], theirs, rtol=1e-5)
    sys.modules.pop("observed")
