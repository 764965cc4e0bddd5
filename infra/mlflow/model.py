"""The registered model: an engine behind MLflow's pyfunc, run by whichever backend built it.

`record` hands MLflow this file as code, so no pickle is written; it needs nothing else of the project.
"""

import importlib.util
import json
from pathlib import Path

import mlflow
import numpy as np


class Engine(mlflow.pyfunc.PythonModel):
    """One engine with its passport and the file of the backend that loads it."""

    def load_context(self, context):
        """Load the engine on one core; `ValueError` where this machine can't run it."""
        folder = Path(context.artifacts["engine"])
        spec = importlib.util.spec_from_file_location("backend", folder / "backend.py")
        backend = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(backend)
        if missing := backend.missing():
            raise ValueError(f"this version's engine can't run here: {missing}")
        self.classes = json.loads((folder / "spec.json").read_text())["classes"]
        self.run = backend.load(folder / f"engine{backend.SUFFIX}", 1)

    def predict(self, context, model_input: np.ndarray, params=None):
        """Prepared inputs, float32 [n, *shape], as an array or as `{"input": array}` -> `{"logits", "label"}`."""
        array = model_input["input"] if isinstance(model_input, dict) else model_input
        logits = self.run(np.ascontiguousarray(array, np.float32))
        return {"logits": logits, "label": np.array([self.classes[i] for i in logits.argmax(axis=1)])}


mlflow.models.set_model(Engine())
