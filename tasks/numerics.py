"""How far the layers of a converted ONNX file are from those of its source, on real samples."""

import math
from pathlib import Path
from typing import Any

import numpy as np

WORST = 5  # layers listed


def report(source: Path, converted: Path, x: Any) -> dict[str, Any]:
    """Return how far the logits are apart, and the worst layers: `{"logits": {...}, "worst_layers": [...]}`.

    The measure is the signal-to-quantisation-noise ratio in dB, 10 log10(sum(a^2) / sum((a - b)^2)), as in ONNX
    Runtime's `qdq_loss_debug`. Layers are compared where both files name a tensor alike; errors add up on the way.
    `ValueError` where the converted file gives NaN or infinities.
    """
    import onnx

    models = [onnx.load(path) for path in (source, converted)]
    kinds = {name: node.op_type for node in models[0].graph.node for name in node.output}
    shared = [name for node in models[1].graph.node for name in node.output if name in kinds]
    handed_on = as_handed_on(models[1], shared)
    theirs, ours = values(models[0], shared, x), values(models[1], list(handed_on.values()), x)
    layers = []
    for name in shared:
        if np.issubdtype(theirs[name].dtype, np.floating):
            refuse_infinite(ours[handed_on[name]], converted, name)
            layers.append({"layer": name, "kind": kinds[name], **distance(theirs[name], ours[handed_on[name]])})
    logits = next(layer for layer in layers if layer["layer"] == "logits")
    worst = sorted(layers, key=lambda layer: layer["sqnr_db"])[:WORST]
    return {"logits": logits, "layers": len(layers), "worst_layers": worst}


def as_handed_on(model: Any, names: list[str]) -> dict[str, str]:
    """Return for each tensor the one that the next layer reads: behind Q/DQ the dequantised (Q may hold a Relu)."""
    quantised = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    restored = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {name: restored.get(quantised.get(name, ""), name) for name in names}


def values(model: Any, names: list[str], x: Any) -> dict[str, Any]:
    """Return the named tensors of a model on `x`, each node run as it is written."""
    import onnx
    import onnxruntime

    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {"input": x}), strict=True))


def refuse_infinite(array: Any, path: Path, name: str) -> None:
    """Raise `ValueError` for numbers that are none."""
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(
            f"{path.name}: layer '{name}' gives {bad:,} values that are NaN or infinite on the calibration data; its "
            "numbers do not fit this precision: take it out of quantize.precisions"
        )


def distance(a: Any, b: Any) -> dict[str, float]:
    """Return how far `b` is from `a`; equal tensors are 200 dB apart, about what float64 could tell."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    signal, noise = float((a * a).sum()), float(((a - b) ** 2).sum())
    ratio = 10 * math.log10(signal / noise) if signal and noise else 200.0 if not noise else 0.0
    return {"sqnr_db": round(min(ratio, 200.0), 2), "max_error": float(f"{np.abs(a - b).max():.4g}")}
