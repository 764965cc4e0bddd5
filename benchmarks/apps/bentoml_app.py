"""The engine behind BentoML, with its adaptive batching: bentoml serve bentoml_app:Classifier."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType

FOLDER = Path(os.environ["ENGINE_FOLDER"])
sys.path.insert(0, str(FOLDER))


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Classifier:
    """Prepared tensors in, scores out."""

    def __init__(self) -> None:
        import backend

        self.classes = json.loads((FOLDER / "spec.json").read_text())["classes"]
        self.engine = backend.load(FOLDER / f"engine{backend.SUFFIX}", 1)

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=int(os.environ["MAX_LATENCY_MS"]))
    def predict(self, input: Annotated[np.ndarray, DType("float32")]) -> np.ndarray:
        """Run the engine; softmax: [n, *shape] -> [n, classes]."""
        logits = self.engine(np.ascontiguousarray(input))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
