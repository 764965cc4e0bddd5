"""Knobs and wiring: what is wrong is refused by name, before any work."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.command import bind, check
from tests.miniature import ROOT
from tests.mutations import KINDS, mutate
from tests.refusals import verdict

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
FLOWS = ["deploy", "monitor"]  # sections that no stage reads
SELECT = ["select", "fashion", "--evaluate", "e", "--measure", "m", "--build", "b", "--out", "o", "--picture", "p"]


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


@pytest.mark.parametrize(
    ("backend", "knobs", "words"),
    [
        ("tensorrtx", {}, "tensorrtx: no such knob; there are: tensorrt, tensorrt_rtx"),
        ("onnxruntime", {}, "onnxruntime: no such knob"),
        ("tensorrt_rtx", {}, "tensorrt_rtx.compute_capabilities: missing; add it"),
        ("tensorrt_rtx", None, "tensorrt_rtx: there is nothing behind it"),
        ("tensorrt_rtx", {"compute_capabilities": [], "workspace_mb": 1}, "tensorrt_rtx.workspace_mb: no such knob"),
        ("tensorrt_rtx", {"compute_capabilities": 86}, "compute_capabilities: .* valid list, got 86"),
        ("tensorrt_rtx", {"compute_capabilities": [8.6]}, r"compute_capabilities.0: .* valid integer, got 8\.6"),
        ("tensorrt_rtx", {"compute_capabilities": [90]}, "not build for 90; it does for 75, 80, 86, 89, 120, 121"),
        ("tensorrt_rtx", {"compute_capabilities": [86, 86]}, "compute_capabilities: 86 is there twice; take one out"),
        ("tensorrt", {"workspace_mb": 1}, "tensorrt.hardware_compatibility: missing; add it"),
    ],
)
def test_knobs_of_a_backend_are_checked_by_name(backend: str, knobs: dict[str, Any] | None, words: str) -> None:
    params = copy.deepcopy(PARAMS)
    params["pipelines"]["fashion"]["build"]["options"][backend] = knobs
    with pytest.raises(ValueError, match=rf"params.yaml: pipelines\.fashion\.build\.options\..*{words}"):
        check("fashion", STAGES, FLOWS, params)


@pytest.mark.parametrize("chosen", ["tensorrt", "tensorrt_rtx"])
def test_a_chosen_backend_needs_its_options_and_no_other_does(chosen: str) -> None:
    options = copy.deepcopy(PARAMS["pipelines"]["fashion"]["build"]["options"])
    del options[chosen]
    params = changed("build", options=options)
    check("fashion", STAGES, FLOWS, params | {"backends": ["onnxruntime", "openvino"]})
    with pytest.raises(ValueError, match=rf"options\.{chosen}: missing; add it, or take {chosen} out of backends"):
        check("fashion", STAGES, FLOWS, params | {"backends": ["onnxruntime", chosen]})


@pytest.mark.parametrize(
    ("stage", "knobs", "words"),
    [
        ("measure", {"batches": [1, 256]}, "measure.batches: .* build.max_batch, which is 128, got 256; lower it"),
        ("build", {"max_batch": 100}, "measure.batches: .* build.max_batch, which is 100, got 128; lower it"),
        ("package", {"max_batch_size": 129}, "package.max_batch_size: .* build.max_batch, which is 128, got 129"),
        ("quantize", {"min_calibration": 2000}, "min_calibration: .* prepare.calibration, which is 1024, got 2000"),
        ("prepare", {"calibration": 511}, "min_calibration: .* prepare.calibration, which is 511, got 512; lower it"),
    ],
)
def test_a_knob_that_exceeds_another_is_refused_with_both(stage: str, knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check("fashion", STAGES, FLOWS, changed(stage, **knobs))


def test_an_unknown_pipeline_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no pipeline 'shoes'; there are: fashion"):
        bind(["select", "shoes"], PARAMS)


def test_one_target_reaches_training_as_a_number() -> None:
    line = ["train", "fashion", "--prepare", "p", "--augment", "a", "--out", "o", "--curves", "c", "--metrics", "m"]
    _, arguments = bind(line, changed("train", target=0.85))
    assert arguments["target"] == 0.85 and arguments["workload"] == "image/classification"


def test_every_knob_is_checked_before_any_stage_runs() -> None:
    check("fashion", STAGES, FLOWS, PARAMS)
    with pytest.raises(ValueError, match=r"pipelines.fashion.package.instances: Input should be .*, got 'many'"):
        check("fashion", STAGES, FLOWS, changed("package", instances="many"))


@pytest.mark.parametrize("seed", range(50))
def test_a_spoilt_params_file_is_refused_by_name_or_harmless(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first seeds run through every kind there is; benchmarks/mutations.py tries hundreds."""
    monkeypatch.chdir(tmp_path)
    outcome, words = verdict(mutate((ROOT / "params.yaml").read_text(), seed), tmp_path)
    assert outcome in ("refused", "harmless") and words


def test_fifty_mutations_are_of_every_kind() -> None:
    assert {mutate((ROOT / "params.yaml").read_text(), seed).kind for seed in range(50)} == set(KINDS)


def test_knobs_that_the_workload_defines_are_checked_as_early() -> None:
    params = changed("augment", flip={"probability": 5})
    with pytest.raises(ValueError, match=r"pipelines.fashion.augment.flip.probability: .* got 5"):
        check("fashion", STAGES, FLOWS, params)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("backends", ["onnxrt"], "no backend 'onnxrt'; there are: onnxruntime"),
        ("backends", "onnxruntime", "params.yaml: backends: .*valid list"),
        ("backend", [], "params.yaml: backend: no such key"),
        ("pipelines", [], "params.yaml: pipelines: Input should be a group of keys"),
    ],
)
def test_what_stands_outside_the_blocks_is_checked_too(key: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check("fashion", STAGES, FLOWS, PARAMS | {key: value})


def test_a_bad_pipeline_name_and_an_unknown_workload_are_refused() -> None:
    block = PARAMS["pipelines"]["fashion"]
    with pytest.raises(ValueError, match=r"pipelines\.My-Shop: a name is"):
        check("My-Shop", STAGES, FLOWS, PARAMS | {"pipelines": {"My-Shop": block}})
    with pytest.raises(ValueError, match="modality: no modality 'sound'; there are: image"):
        check("fashion", STAGES, FLOWS, PARAMS | {"pipelines": {"fashion": block | {"modality": "sound"}}})
