"""`<pipeline>_engine` inside Triton: network input to class name and scores, with the chosen engine.

`package` copies this file, observation.py, observed.py, the engine with the backend that loads it, and spec.json into
one version folder; it needs nothing else of the project.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import

import backend
import numpy as np
import observation
import triton_python_backend_utils as pb


class TritonPythonModel:
    """One instance: a loaded engine that answers all requests of a batch at once."""

    def initialize(self, args):
        """Load the engine, with as many threads as the model's configuration says."""
        folder = Path(os.path.relpath(Path(__file__).parent))  # this server's Python can hand on ASCII paths only
        self.classes = json.loads((folder / "spec.json").read_bytes())["classes"]
        threads = int(json.loads(args["model_config"])["parameters"]["threads"]["string_value"])
        self.predict = backend.load(folder / f"engine{backend.SUFFIX}", threads)
        self.observation = observation.observation(args["model_name"], self.classes, counter)

    def finalize(self):
        """Hand on what was noted last."""
        if self.observation:
            self.observation.end()

    def execute(self, requests):
        """Answer each request of a batch; only those with a NaN or an infinity are refused."""
        inputs = [pb.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        sound = [bool(np.isfinite(x).all()) for x in inputs]
        good = [x for x, is_sound in zip(inputs, sound, strict=True) if is_sound]
        answers = self.score(good)
        if self.observation:
            ids = [request.request_id() for request, is_sound in zip(requests, sound, strict=True) if is_sound]
            for noted in zip(ids, good, answers, strict=True):
                self.observation.note(*noted)
        scores = iter(answers)
        return [answer(next(scores), self.classes) if is_sound else refusal() for is_sound in sound]

    def score(self, inputs):
        """Run the engine once over several requests: list of [n, *shape] -> list of [n, classes], probabilities."""
        if not inputs:
            return []
        logits = self.predict(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        ends = np.cumsum([len(x) for x in inputs])[:-1]
        return np.split(softmax(logits), ends)


def counter(name, words):
    """Make a counter of this server."""
    return pb.MetricFamily(name=name, description=words, kind=pb.MetricFamily.COUNTER)


def softmax(logits):
    """Logits -> probabilities, float32, each row summing to one."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def answer(scores, classes):
    """Name the best class of each row and give all its scores."""
    labels = np.array([[classes[i].encode()] for i in scores.argmax(axis=1)], dtype=object)
    return pb.InferenceResponse([pb.Tensor("scores", np.ascontiguousarray(scores)), pb.Tensor("label", labels)])


def refusal():
    """Refuse numbers that no sample gives."""
    sentence = "the input holds NaN or infinite values: send preprocessed samples, or send them encoded to the ensemble"
    return pb.InferenceResponse(error=pb.TritonError(sentence, pb.TritonError.INVALID_ARG))
