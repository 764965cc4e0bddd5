"""imported: a model that others trained is taken in by its hash, fits the data, and is judged as a training is."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.imported import imported
from tests import toys


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.prepared(tmp_path_factory.mktemp("imported"))


def model(batch: Any = "n", classes: int = 4, size: int = 28, external: bool = False) -> bytes:
    """Return a linear network with tensors named as somebody else would."""
    weight = np.random.default_rng(0).normal(size=(size * size, classes)).astype(np.float32)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True)
    if external:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../etc/passwd")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["out"])],
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 1, size, size])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, classes])],
        [tensor],
    )
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    return bytes(made.SerializeToString())


def take(data: Path, tmp_path: Path, content: bytes, sha256: str | None = None, target: float = 0.9) -> Path:
    (tmp_path / "bought.onnx").write_bytes(content)
    paths = data / "prepare", data / "augment", tmp_path / "out", tmp_path / "curves", tmp_path / "metrics.json"
    known = sha256 or hashlib.sha256(content).hexdigest()
    imported(toys.WORKLOAD, *paths, target=target, confidence=0.95, onnx=str(tmp_path / "bought.onnx"), sha256=known)
    return tmp_path


def test_an_imported_model_speaks_our_names_and_has_a_verdict(data: Path, tmp_path: Path) -> None:
    take(data, tmp_path, model())
    graph = onnx.load(tmp_path / "out/model.onnx").graph
    assert (graph.input[0].name, graph.output[0].name) == ("input", "logits")
    verdict = json.loads((tmp_path / "metrics.json").read_text())
    assert verdict["n"] == 300 and not verdict["reached"] and verdict["low"] < verdict["value"] < 0.9
    assert (tmp_path / "curves/curves.csv").read_text().startswith("epoch,step,seconds,validation")
    assert json.loads((take(data, tmp_path, model(), target=0.01) / "metrics.json").read_text())["reached"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no model", "no valid ONNX model"),
        (model()[:500], "no valid ONNX model"),
        (model(batch=1), r"'pixels' is \[1, 1, 28, 28\], but the data wants .*dynamic batch"),
        (model(size=32), r"is \['n', 1, 32, 32\], but the data wants \['batch', 1, 28, 28\].*prepare.input"),
        (model(classes=7), r"'out' is \['n', 7\], but the data wants \['batch', 4\]"),
        (model(external=True), "its weights lie in other files"),
    ],
    ids=["text", "torn", "fixed batch", "other size", "other classes", "external data outside its folder"],
)
def test_a_model_that_does_not_fit_is_refused_and_leaves_nothing(
    data: Path, tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        take(data, tmp_path, content)
    assert not (tmp_path / "out").exists() and not (tmp_path / "metrics.json").exists()


def test_a_file_that_is_another_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"SHA-256 is .*imported\.sha256 wants 0000"):
        take(data, tmp_path, model(), sha256="0" * 64)


def test_a_file_that_is_not_there_is_named(data: Path, tmp_path: Path) -> None:
    paths = data / "prepare", data / "augment", tmp_path / "out", tmp_path / "curves", tmp_path / "metrics.json"
    with pytest.raises(ValueError, match=r"imported\.onnx: .*nowhere\.onnx"):
        imported(
            toys.WORKLOAD, *paths, target=0.5, confidence=0.95, onnx=str(tmp_path / "nowhere.onnx"), sha256="0" * 64
        )
