"""The trained network, rebuilt from its weights and the facts beside them."""

import json
from pathlib import Path
from typing import Any

from tasks.workload import part


def network(workload: str, train: Path, spec: dict[str, Any]) -> Any:
    """Return the best network of a training, in eval mode, float32, on the CPU."""
    from safetensors.torch import load_file

    facts = json.loads((train / "train.json").read_text())
    built = part(workload, "network").build(spec, facts["width"])
    built.load_state_dict(load_file(train / "weights.safetensors"))
    return built.eval().float()


def predictor(built: Any) -> Any:
    """Return numpy -> numpy eager inference: the naive way that every engine is compared with."""
    import torch

    def predict(x: Any) -> Any:
        with torch.inference_mode():
            return built(torch.from_numpy(x)).numpy()

    return predict
