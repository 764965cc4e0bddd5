"""train, export, quantize, build, evaluate, measure, select: properties on the artifacts of the miniature run."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.interval import wilson
from tests.conftest import Miniature

WORKLOAD = "image/classification"
CPU = ["onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8"]
RTX = ["tensorrt_rtx-fp32", "tensorrt_rtx-fp16", "tensorrt_rtx-int8"]
BACKENDS = ["onnxruntime", "openvino", "tensorrt_rtx"]


def read(ran: Miniature, path: str) -> Any:
    return json.loads((ran.folder / path).read_text())


def test_wilson_agrees_with_its_definition_and_with_a_known_value() -> None:
    assert wilson(5448, 6000)[0] == pytest.approx(0.9004, abs=1e-4)  # 0.908 of 6,000 is about where training stops
    for correct, n in ((0, 10), (3, 7), (10, 10), (5448, 6000)):
        for bound in wilson(correct, n):
            share = correct / n
            if 0 < bound < 1:
                assert (share - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / n, rel=1e-5)


def test_training_records_what_was_asked_and_what_ran(ran: Miniature) -> None:
    verdict = read(ran, "metrics/train/fashion.json")
    assert verdict["reached"] and verdict["low"] >= verdict["target"] == 0.6
    assert (verdict["precision_asked"], verdict["n"]) == ("16-mixed", 300)
    assert verdict["precision_ran"] == ("16-mixed" if verdict["device"] == "gpu" else "bf16-mixed")
    rows = list(csv.DictReader((ran.folder / "models/curves/fashion/curves.csv").open()))
    assert len(rows) == verdict["epochs"] and float(rows[-1]["low"]) == pytest.approx(verdict["low"], abs=1e-6)
    assert not list((ran.folder / "models/train").glob("*.partial"))


def test_a_target_that_is_not_reached_is_a_verdict(ran: Miniature, tmp_path: Path) -> None:
    import yaml

    from tasks.networks import small
    from tasks.train import train

    knobs = yaml.safe_load((ran.folder / "params.yaml").read_text())["pipelines"]["fashion"]["train"]
    knobs |= {"target": 0.9999, "max_epochs": 1, "network": small.Knobs(**knobs["network"])}
    sources = [ran.folder / "data" / name / "fashion" for name in ("prepare", "augment")]
    train(WORKLOAD, *sources, tmp_path / "out", tmp_path / "curves", tmp_path / "verdict.json", **knobs)
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["reached"] is False and verdict["seconds_to_target"] is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train.json", "weights.safetensors"}


def test_the_learning_rate_rests_at_its_floor_after_the_cycle() -> None:
    from tasks.learner import FLOOR, START, cycle

    rates = [cycle(step, 100) for step in range(150)]
    assert rates[0] == START and max(rates) == rates[20] == 1 and rates[100:] == [FLOOR] * 50
    assert rates[20:101] == sorted(rates[20:101], reverse=True)


def test_export_carries_classes_and_no_path_of_this_machine(ran: Miniature) -> None:
    import onnx

    content = (ran.folder / "models/export/fashion/model.onnx").read_bytes()
    properties = {p.key: p.value for p in onnx.load_from_string(content).metadata_props}
    assert json.loads(properties["classes"]) == ["disc", "box", "cross", "bar"]
    assert json.loads(properties["preprocessing"])["image_size"] == 28
    assert b"site-packages" not in content and str(ran.folder).encode() not in content and b".py" not in content


def test_export_enforces_its_bound(ran: Miniature, tmp_path: Path) -> None:
    from tasks.export import export

    sources = (ran.folder / "data/prepare/fashion", ran.folder / "models/train/fashion")
    with pytest.raises(ValueError, match=r"export.max_difference allows 1.00e-12"):
        export(*sources, tmp_path / "out", max_difference=1e-12)
    assert not (tmp_path / "out").exists()


def test_int8_is_quantised_in_the_dialect_of_its_runtime(ran: Miniature) -> None:
    import onnx

    for dialect, zero_points in (("cpu", {onnx.TensorProto.UINT8}), ("tensorrt", {onnx.TensorProto.INT8})):
        model = onnx.load(ran.folder / f"models/quantize/fashion/int8.{dialect}.onnx")
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        quantised = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        activations = {kinds[node.input[2]] for node in quantised if node.input[0] not in kinds}
        assert activations == zero_points
        int32 = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and kinds.get(n.input[0]) == 6]
        assert bool(int32) is (dialect == "cpu"), "TensorRT refuses int32 biases"


def test_fp16_is_typed_inside_and_float32_at_both_ends(ran: Miniature) -> None:
    import onnx

    graph = onnx.load(ran.folder / "models/quantize/fashion/fp16.onnx").graph
    ends = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert ends == {onnx.TensorProto.FLOAT} and onnx.TensorProto.FLOAT16 in kinds


def test_the_calibration_set_is_accounted_for(ran: Miniature) -> None:
    content = read(ran, "models/quantize/fashion/quantize.json")
    audit = content["calibration"]
    assert audit["samples"] == sum(audit["per_class"].values()) == 64 and min(audit["per_class"].values()) > 8
    assert audit["disjoint_from"] == {"validation": 300, "test": 400}
    assert set(content["checks"]) == {"fp16", "int8.cpu", "int8.tensorrt"}
    assert content["checks"]["fp16"]["logits"]["sqnr_db"] > content["checks"]["int8.cpu"]["logits"]["sqnr_db"] > 20


def test_every_engine_has_a_passport_that_names_what_it_was_made_of(ran: Miniature) -> None:
    from tasks import engines
    from tasks.digest import sha256

    quantised = ran.folder / "models/quantize/fashion"
    audit = read(ran, "models/quantize/fashion/quantize.json")["calibration"]
    found = {engine.name: engine for engine in engines.read(ran.folder / "models/build/fashion", BACKENDS)}
    assert list(found) == CPU + RTX
    for name, engine in found.items():
        assert engine.path.with_name(f"{engine.path.name}.passport.json").exists()
        assert engine.facts["engine"] == name and engine.facts["sha256"] == sha256(engine.path)
        assert engine.facts["onnx"]["sha256"] == sha256(quantised / engine.facts["onnx"]["file"])
        calibrated = {"samples": 64, "sha256": audit["sha256"]} if name.endswith("int8") else None
        assert engine.facts["calibration"] == calibrated


def test_rtx_engines_are_real_and_recorded_as_not_measured(ran: Miniature) -> None:
    folder = ran.folder / "models/build/fashion/tensorrt_rtx"
    files = read(ran, "models/build/fashion/tensorrt_rtx/build.json")["engines"]
    assert list(files) == RTX
    for name, file in files.items():
        content = (folder / file).read_bytes()
        assert content.startswith(b"vtrt") and int.from_bytes(content[16:24], "little") == len(content)
        assert read(ran, f"models/build/fashion/tensorrt_rtx/{file}.passport.json")["batch"] == [1, 32, 128]
        if "not_measured" in read(ran, "metrics/evaluate/fashion.json")["rows"][name]:
            row = next(row for row in read(ran, "models/select/fashion.json")["rows"] if row["engine"] == name)
            assert row["verdict"].startswith("built, not measured here")


def test_every_step_is_judged_against_the_one_it_comes_from(ran: Miniature) -> None:
    from safetensors.numpy import load_file

    rows = read(ran, "metrics/evaluate/fashion.json")["rows"]
    origins = {name: row["from"] for name, row in rows.items()}
    assert origins["torch-fp32"] is None and origins["torch-autocast"] == origins["onnx-fp32"] == "torch-fp32"
    assert origins["onnx-int8.cpu"] == "onnx-fp32" and origins["openvino-int8"] == "onnx-int8.cpu"
    assert origins["tensorrt_rtx-fp16"] == "onnx-fp16" and origins["tensorrt_rtx-int8"] == "onnx-int8.tensorrt"
    answers = load_file(ran.folder / "models/evaluate/fashion.safetensors")
    confidences = {name: answers.pop(f"confidence/{name}") for name in list(answers) if f"confidence/{name}" in answers}
    assert len(confidences) == len(answers) - 1 and "truth" in answers
    assert all(each.shape == (400,) and each.min() > 0.25 and each.max() <= 1 for each in confidences.values())
    right = {name: labels == answers["truth"] for name, labels in answers.items()}
    for name, row in rows.items():
        if "accuracy" in row:
            before = right[row["from"] or name]
            assert row["n"] == len(right[name]) == 400 and row["low"] < row["accuracy"] <= row["high"]
            assert row["accuracy"] == pytest.approx(right[name].mean(), abs=1e-6)
            assert (row["gained"], row["lost"]) == ((right[name] & ~before).sum(), (before & ~right[name]).sum())
            assert row["delta"] == pytest.approx(right[name].mean() - before.mean(), abs=1e-6)
            assert row["agreement"] == pytest.approx((answers[name] == answers["torch-fp32"]).mean(), abs=1e-6)


def test_engines_agree_with_torch(ran: Miniature) -> None:
    rows = read(ran, "metrics/evaluate/fashion.json")["rows"]
    assert all(rows[name]["agreement"] > (0.9 if name.endswith("int8") else 0.99) for name in CPU)
    assert rows["onnx-fp32"]["agreement"] == rows["onnxruntime-fp32"]["agreement"] == 1.0


def test_every_way_is_measured_in_every_round_at_every_batch(ran: Miniature) -> None:
    content = read(ran, "models/measure/fashion.json")
    assert content["rounds"] == 5 and content["machine"]["threads"] == 1
    for name in ("torch-fp32", *CPU):
        row = content["rows"][name]
        assert set(row["throughput"]) == {"1", "32"} and row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert all(len(each) == 5 for each in row["rounds"].values()) and row["calls"] == 5 * 60
        assert row["memory_mb"] is None if name == "torch-fp32" else row["memory_mb"] > 0


def test_the_chosen_engine_was_measured_and_every_other_has_a_reason(ran: Miniature) -> None:
    table = read(ran, "models/select/fashion.json")
    verdicts = {row["engine"]: row["verdict"] for row in table["rows"]}
    assert list(verdicts) == ["torch-fp32", *CPU, *RTX] and table["chosen"] in CPU
    assert [name for name, words in verdicts.items() if words == "chosen"] == [table["chosen"]]
    assert all(verdicts.values()) and verdicts["torch-fp32"] == "reference"
    rungs = [rung["step"] for rung in table["budget"]]
    assert rungs[0] == "torch-fp32" and rungs[-1] == table["chosen"] and not set(rungs[:-1]) & {*CPU, *RTX}
    assert (ran.folder / "models/select/fashion.png").read_bytes().startswith(b"\x89PNG")


def test_engines_of_a_dropped_backend_are_not_read(ran: Miniature, tmp_path: Path) -> None:
    from tasks import engines

    shutil.copytree(ran.folder / "models/build/fashion", tmp_path / "build")
    assert [engine.name for engine in engines.read(tmp_path / "build", ["openvino"])] == CPU[2:]


def test_an_unknown_backend_is_refused_by_name(tmp_path: Path) -> None:
    from tasks.build import build

    words = "no backend 'onnxrt'; there are: onnxruntime, openvino, tensorrt, tensorrt_rtx"
    with pytest.raises(ValueError, match=words):
        build("fashion", "onnxrt", tmp_path, tmp_path / "out", max_batch=1, options=None)


@pytest.mark.gpu
def test_rtx_engines_run_on_a_gpu(ran: Miniature) -> None:
    from safetensors.numpy import load_file

    from tasks import engines

    golden = load_file(ran.folder / "data/prepare/fashion/golden.safetensors")["input"]
    found = {engine.name: engine for engine in engines.read(ran.folder / "models/build/fashion", BACKENDS)}
    if found[RTX[0]].missing:
        pytest.skip(found[RTX[0]].missing)
    expected = found["onnxruntime-fp32"].load(1)(golden)
    for name, tolerance in zip(RTX, (1e-2, 5e-2, 1.0), strict=True):
        assert np.allclose(expected, found[name].load(1)(golden), atol=tolerance), name
