"""train, export, quantize, build, evaluate, select: properties on the artifacts of the miniature run."""

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

    from tasks.train import train

    knobs = yaml.safe_load((ran.folder / "params.yaml").read_text())["pipelines"]["fashion"]["train"]
    knobs |= {"target": 0.9999, "max_epochs": 1}
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
        export(WORKLOAD, *sources, tmp_path / "out", max_difference=1e-12)
    assert not (tmp_path / "out").exists()


def test_int8_is_quantised_in_the_dialect_of_its_runtime(ran: Miniature) -> None:
    import onnx

    for dialect, zero_points in (("onnxruntime", {onnx.TensorProto.UINT8}), ("tensorrt", {onnx.TensorProto.INT8})):
        model = onnx.load(ran.folder / f"models/quantize/fashion/int8.{dialect}.onnx")
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        quantised = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        activations = {kinds[node.input[2]] for node in quantised if node.input[0] not in kinds}
        assert activations == zero_points
        int32 = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and kinds.get(n.input[0]) == 6]
        assert bool(int32) is (dialect == "onnxruntime"), "TensorRT refuses int32 biases"


def test_rtx_engines_are_real_and_recorded_as_not_measured(ran: Miniature) -> None:
    build = read(ran, "models/build/fashion/tensorrt_rtx/build.json")["engines"]
    for name, facts in build.items():
        content = (ran.folder / "models/build/fashion/tensorrt_rtx" / facts["file"]).read_bytes()
        assert content.startswith(b"vtrt") and int.from_bytes(content[16:24], "little") == len(content)
        if "not_measured" in read(ran, "metrics/evaluate/fashion.json")["rows"][name]:
            row = next(row for row in read(ran, "models/select/fashion.json")["rows"] if row["engine"] == name)
            assert row["verdict"].startswith("built, not measured here")


def test_engines_agree_with_torch(ran: Miniature) -> None:
    rows = read(ran, "metrics/evaluate/fashion.json")["rows"]
    assert rows["onnxruntime-fp32"]["agreement"] == 1.0 and rows["onnxruntime-int8"]["agreement"] > 0.9
    assert all(row["low"] < row["accuracy"] < row["high"] for row in rows.values() if "accuracy" in row)


@pytest.mark.parametrize(
    ("drop", "p50", "objective", "max_drop", "chosen"),
    [
        (0.000, 0.1, "latency", 0.005, "onnxruntime-int8"),
        (0.004, 0.1, "latency", 0.005, "onnxruntime-int8"),
        (0.006, 0.1, "latency", 0.005, "onnxruntime-fp32"),
        (0.000, 0.9, "latency", 0.005, "onnxruntime-fp32"),
        (0.000, 0.9, "throughput", 0.005, "onnxruntime-int8"),
    ],
)
def test_select_takes_the_best_that_keeps_its_accuracy(
    ran: Miniature, tmp_path: Path, drop: float, p50: float, objective: str, max_drop: float, chosen: str
) -> None:
    from tasks.select import select

    scores = {"torch-fp32": 0.91, "onnxruntime-fp32": 0.91, "onnxruntime-int8": 0.91 - drop}
    times = {"torch-fp32": (1.0, 100), "onnxruntime-fp32": (0.5, 200), "onnxruntime-int8": (p50, 300)}
    gone = {name: {"not_measured": "no GPU"} for name in ("tensorrt_rtx-fp32", "tensorrt_rtx-int8")}
    accuracies = {name: {"accuracy": value, "n": 10000} for name, value in scores.items()} | gone
    timings = {name: {"p50_ms": ms, "images_per_s": rate} for name, (ms, rate) in times.items()} | gone
    (tmp_path / "evaluate.json").write_text(json.dumps({"rows": accuracies, "reference": "torch-fp32"}))
    (tmp_path / "measure.json").write_text(json.dumps({"rows": timings}))
    files = [tmp_path / "evaluate.json", tmp_path / "measure.json", ran.folder / "models/build/fashion"]
    knobs: dict[str, Any] = {"objective": objective, "max_accuracy_drop": max_drop}
    select(["onnxruntime", "tensorrt_rtx"], *files, tmp_path / "out.json", **knobs)
    table = json.loads((tmp_path / "out.json").read_text())
    assert table["chosen"] == chosen
    verdicts = {row["engine"]: row["verdict"] for row in table["rows"]}
    assert verdicts["torch-fp32"] == "reference" and "no GPU" in verdicts["tensorrt_rtx-int8"]
    if drop > max_drop:
        assert "0.0060" in verdicts["onnxruntime-int8"] and "n=10000" in verdicts["onnxruntime-int8"]


def test_engines_of_a_dropped_backend_are_not_read(ran: Miniature, tmp_path: Path) -> None:
    from tasks import engines

    shutil.copytree(ran.folder / "models/build/fashion", tmp_path / "build")
    assert [engine.name for engine in engines.read(tmp_path / "build", ["onnxruntime"])] == [
        "onnxruntime-fp32",
        "onnxruntime-int8",
    ]


def test_an_unknown_backend_is_refused_by_name(tmp_path: Path) -> None:
    from tasks.build import build

    with pytest.raises(ValueError, match="no backend 'onnxrt'; there are: onnxruntime, tensorrt, tensorrt_rtx"):
        build("onnxrt", tmp_path, tmp_path / "out", max_batch=1)


@pytest.mark.gpu
def test_rtx_engines_run_on_a_gpu(ran: Miniature) -> None:
    from safetensors.numpy import load_file

    from tasks import engines

    golden = load_file(ran.folder / "data/prepare/fashion/golden.safetensors")["input"]
    cpu, gpu = engines.read(ran.folder / "models/build/fashion", ["onnxruntime", "tensorrt_rtx"])[::2]
    if gpu.missing:
        pytest.skip(gpu.missing)
    assert np.allclose(cpu.load(1)(golden), gpu.load(1)(golden), atol=1e-2)
