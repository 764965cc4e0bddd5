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


def half(source: Path, out: Path) -> Path:
    """Write the FP16 form of a network: inside it, not at its ends."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), out)
    return out
