"""Small ONNX networks, drawn by hand: what the engine builders are fed in tests."""

from pathlib import Path
from typing import Any

import numpy as np


def convolutional(out: Path, batch: int | str = "batch", operator: str = "Relu", size: int | str = 28) -> Path:
    """Write images -> two convolutions -> four logits; any operator but ONNX's own is of the domain `custom`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    shapes = {"w1": (16, 1, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (16, 4), "b3": (4,)}
    tensors = {name: generator.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    pads: dict[str, Any] = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"], "first", **pads),
        helper.make_node(operator, ["c1"], ["r1"], "between", domain="" if operator == "Relu" else "custom"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "second", strides=[2, 2], **pads),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 1, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    domains = [helper.make_opsetid("", 20), *([] if operator == "Relu" else [helper.make_opsetid("custom", 1)])]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), out)
    return out


def fitted(out: Path, x: Any, y: Any) -> Path:
    """Write images -> 32 random filters, the most that each finds -> the logits that fit the labels best, by ridge."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    filters = np.random.default_rng(0).normal(0, 1, (32, 1, 5, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "filters"], ["found"], "find", kernel_shape=[5, 5]),
        helper.make_node("Relu", ["found"], ["positive"]),
        helper.make_node("MaxPool", ["positive"], ["most"], kernel_shape=[24, 24]),
        helper.make_node("Flatten", ["most"], ["features"]),
        helper.make_node("Gemm", ["features", "weights", "bias"], ["logits"], "judge"),
    ]

    def model(output: str, weights: Any, bias: Any) -> Any:
        tensors = {"filters": filters, "weights": weights, "bias": bias}
        graph = helper.make_graph(
            nodes,
            "fitted",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 28, 28])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", len(weights[0])])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    wanted = np.eye(y.max() + 1)[y]
    unfitted = model("features", np.zeros((32, 32)), np.zeros(32)).SerializeToString()
    features = onnxruntime.InferenceSession(unfitted).run(["features"], {"input": x})[0].astype(np.float64)
    off, mean = features - features.mean(0), wanted.mean(0)
    weights = np.linalg.solve(off.T @ off + 100 * np.eye(32), off.T @ (wanted - mean))
    onnx.save(model("logits", weights, mean - features.mean(0) @ weights), out)
    return out


def half(source: Path, out: Path) -> Path:
    """Write the FP16 form of a network: inside it, not at its ends."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), out)
    return out
