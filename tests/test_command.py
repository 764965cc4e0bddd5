"""Knobs and wiring: what is wrong is refused by name, before any work."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.command import bind, check
from tests.miniature import ROOT

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
SELECT = ["select", "fashion", "--evaluate", "e", "--measure", "m", "--build", "b", "--out", "o"]


def changed(stage: str, **knobs: Any) -> dict[str, Any]:
    """Return the shipped params with some knobs of a stage changed; None takes one out."""
    params = copy.deepcopy(PARAMS)
    section = params["pipelines"]["fashion"][stage]
    section |= knobs
    for name in [name for name, value in knobs.items() if value is None]:
        del section[name]
    return dict(params)


def test_the_shipped_params_bind() -> None:
    function, arguments = bind(SELECT, PARAMS)
    assert function.__name__ == "select" and arguments["objective"] == "latency" and arguments["out"] == Path("o")


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"objektive": "latency"}, ["pipelines.fashion.select.objektive", "no such knob"]),
        ({"objective": None}, ["pipelines.fashion.select.objective", "missing"]),
        ({"objective": "speed"}, ["pipelines.fashion.select.objective", "'latency' or 'throughput'", "'speed'"]),
        ({"max_accuracy_drop": -0.1}, ["pipelines.fashion.select.max_accuracy_drop", "-0.1"]),
        ({"max_accuracy_drop": "little"}, ["pipelines.fashion.select.max_accuracy_drop", "'little'"]),
    ],
)
def test_a_wrong_knob_is_refused_by_name(knobs: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        bind(SELECT, changed("select", **knobs))
    for word in words:
        assert word in str(error.value)


def test_an_unknown_pipeline_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no pipeline 'shoes'; there are: fashion"):
        bind(["select", "shoes"], PARAMS)


def test_one_target_reaches_training_as_a_number() -> None:
    line = ["train", "fashion", "--prepare", "p", "--augment", "a", "--out", "o", "--curves", "c", "--metrics", "m"]
    _, arguments = bind(line, changed("train", target=0.85))
    assert arguments["target"] == 0.85 and arguments["workload"] == "image/classification"


def test_every_knob_is_checked_before_any_stage_runs() -> None:
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    check("fashion", stages, PARAMS)
    with pytest.raises(ValueError, match=r"pipelines.fashion.package.instances: Input should be .*, got 'many'"):
        check("fashion", stages, changed("package", instances="many"))
