"""What the stages before record leave, as toys."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from tasks.backends import onnxruntime

PARAMS = {"train": {"target": 0.9, "seed": 1}, "prepare": {"classes": ["a", "b"]}}
FINGERPRINT = "f" * 64
CURVES = "epoch,step,seconds,loss,validation\n0,10,0.5,1.5,\n0,20,1.5,1.0,0.7\n1,30,2.5,0.5,0.9\n"


def write(path: Path, content: Any) -> None:
    """Write text, bytes or JSON to a file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def network() -> bytes:
    """Return an ONNX model that sums the four pixels of a picture into two logits."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    weights = onnx.numpy_helper.from_array(np.array([[1, -1]] * 4, np.float32), "weights")
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("input", floats, ["batch", 1, 2, 2])]
    outputs = [helper.make_tensor_value_info("logits", floats, ["batch", 2])]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()


def passport(backend: str, precision: str, file: str) -> dict[str, Any]:
    """Return what the passport of a toy engine says."""
    tensor = {"name": "input", "type": "float", "shape": ["batch", 1, 2, 2]}
    library = version("onnxruntime")
    return {
        "engine": f"{backend}-{precision}",
        "pipeline": "toy",
        "backend": backend,
        "precision": precision,
        "file": file,
        "device": "cpu",
        "requires": f"onnxruntime=={library}",
        "sha256": hashlib.sha256(f"{backend}-{file}".encode()).hexdigest(),
        "onnx": {"file": file, "sha256": hashlib.sha256(network()).hexdigest()},
        "size_bytes": 9,
        "tensors": {"inputs": [tensor], "outputs": [{"name": "logits", "type": "float", "shape": ["batch", 2]}]},
        "versions": {"onnxruntime": library},
        "built": {"at": "2026-01-01T00:00:00+00:00", "seconds": 0.1, "on": {"cpu": "toy"}},
    }


def package(folder: Path, engine: str, digest: str) -> None:
    """Leave what the package stage leaves, as far as MLflow takes it."""
    inside = "repository/toy_engine/1"
    write(folder / "package.json", {"engine": engine, "sha256": digest, "engine_folder": inside})
    write(folder / inside / "engine.onnx", network())
    write(folder / inside / "engine.onnx.passport.json", passport(*engine.split("-"), "fp32.onnx"))
    write(folder / inside / "spec.json", {"classes": ["a", "b"]})
    write(folder / inside / "backend.py", Path(str(onnxruntime.__file__)).read_text())


def inputs(root: Path, chosen: str | None = "onnxruntime-fp32") -> dict[str, Any]:
    """Leave what the stages before record leave, and return record's arguments."""
    pixel = root / "pixel.png"
    root.mkdir(parents=True)
    Image.new("L", (2, 2)).save(pixel)
    for picture in ("prepare/samples.png", "augment/strip.png", "curves/curves.png"):
        write(root / picture, pixel.read_bytes())
    write(root / "prepare/spec.json", {"classes": ["a", "b"], "image_size": 2, "counts": {"train": 8}})
    write(root / "prepare/train-0.tar", b"shard")
    write(root / "augment/augment.json", {"flip": {"probability": 0.5}})
    write(root / "train/train.json", {"network": {"name": "small", "width": 64}})
    write(root / "curves/curves.csv", CURVES)
    write(root / "train/weights.safetensors", b"weights")
    write(
        root / "train_metrics.json",
        {"target": 0.9, "reached": True, "value": 0.92, "n": 100, "fingerprint": FINGERPRINT},
    )
    write(root / "export/model.onnx", network())
    write(root / "quantize/fp32.onnx", network())
    write(root / "quantize/quantize.json", {"fp32": {"size_bytes": 9}})
    names = {"onnxruntime-fp32": "fp32.onnx", "tensorrt_rtx-fp32": "fp32.engine"}
    for engine, file in names.items():
        backend, precision = engine.split("-")
        write(root / "build" / backend / file, network())
        write(root / "build" / backend / f"{file}.passport.json", passport(backend, precision, file))
        write(root / "build" / backend / "build.json", {"engines": {engine: file}})
    score = {"accuracy": 0.91, "low": 0.9, "high": 0.92, "n": 100, "per_class": {"a": 0.9, "T-shirt/top (b)": 0.92}}
    not_measured = {"not_measured": "no GPU"}
    write(root / "evaluate.json", {"rows": {"onnxruntime-fp32": score, "tensorrt_rtx-fp32": not_measured}})
    write(root / "measure.json", {"machine": {"cpu": "toy"}, "rows": {"onnxruntime-fp32": {"p50_ms": 0.5}}})
    row = {"engine": "onnxruntime-fp32", "accuracy": 0.91, "p50_ms": 0.5, "size_bytes": 9, "verdict": "chosen"}
    rows = [row, {"engine": "tensorrt_rtx-fp32", "verdict": "built, not measured here"}]
    write(root / "select.json", {"chosen": chosen, "rows": rows})
    write(root / "select.png", pixel.read_bytes())
    write(root / "report.html", "<!doctype html><title>Run report</title>")
    write(root / "package/package.json", {"engine": chosen})
    if chosen:
        package(root / "package", chosen, "package-1")
    folders = ("prepare", "augment", "train", "curves", "export", "quantize", "build", "package")
    files = ("train_metrics", "evaluate", "measure", "select")
    paths = {name: root / name for name in folders} | {name: root / f"{name}.json" for name in files}
    paths |= {"picture": root / "select.png", "report": root / "report.html"}
    return {
        "pipeline": "toy",
        "backends": ["onnxruntime", "tensorrt_rtx"],
        "params": PARAMS,
        "out": root / "out.json",
    } | paths
