"""The original network, rebuilt from what training or an import left: every engine is compared with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import networks

IMPORTED = "model.onnx"  # what an imported model's folder holds instead of weights


def original(train: Path, spec: dict[str, Any]) -> tuple[str, Callable[[Any], Any]]:
    """Return the naive way to run it, numpy -> numpy, and its name: eager torch, or the file that was imported."""
    imported = train / IMPORTED
    if imported.exists():
        return "onnx-imported", session(imported)
    return "torch-fp32", predictor(network(train, spec))


def network(train: Path, spec: dict[str, Any]) -> Any:
    """Return the best network of a training, in eval mode, float32, on the CPU."""
    from safetensors.torch import load_file

    facts = json.loads((train / "train.json").read_text())
    built = networks.build(spec, facts["network"])
    built.load_state_dict(load_file(train / "weights.safetensors"))
    return built.eval().float()


def predictor(built: Any) -> Callable[[Any], Any]:
    """Return eager torch inference."""
    import torch

    def predict(x: Any) -> Any:
        with torch.inference_mode():
            return built(torch.from_numpy(x)).numpy()

    return predict


def autocast(train: Path, spec: dict[str, Any]) -> Callable[[Any], Any]:
    """Return the same network as mixed precision computes it: float16 on a GPU, bfloat16 on a CPU."""
    import torch

    built = network(train, spec)
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.bfloat16)
    built.to(device)

    def predict(x: Any) -> Any:
        with torch.inference_mode(), torch.autocast(device, dtype):
            return built(torch.from_numpy(x).to(device)).float().cpu().numpy()

    return predict


def session(path: Path) -> Callable[[Any], Any]:
    """Return ONNX Runtime inference on the CPU: `input` -> `logits`."""
    import onnxruntime

    loaded = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: loaded.run(["logits"], {"input": x})[0]
