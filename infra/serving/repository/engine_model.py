"""`<pipeline>_engine` inside Triton: network input to class name and scores, with the chosen engine.

`package` copies this file, observation.py, observed.py, the engine with the backend that loads it, and spec.json into
one version folder; it needs nothing else of the project.

Taking a batch in and sending its answers off costs 1 to 2 ms between two processes, in which the engine would wait. So
three threads share the work: the server's hands batches in, one of its own runs the engine, one sends answers off.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor, wait
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
        self.engine, self.post = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.latest = self.engine.submit(backend.load, folder / f"engine{backend.SUFFIX}", threads)
        self.predict = self.latest.result()
        self.observation = observation.observation(args["model_name"], self.classes, counter)

    def finalize(self):
        """Answer what is under way, and hand on what was noted last."""
        self.engine.shutdown()
        self.post.shutdown()
        if self.observation:
            self.observation.end()

    def execute(self, requests):
        """Take in a batch and return as soon as the engine is at it: then the server may gather the next.

        Only requests with a NaN or an infinity are refused.
        """
        batch = []
        for request in requests:
            x, sender = pb.get_input_tensor_by_name(request, "input").as_numpy(), request.get_response_sender()
            if np.isfinite(x).all():
                batch.append((request.request_id(), x, sender))
            else:
                send(sender, refusal(REFUSED, pb.TritonError.INVALID_ARG))
        if batch:
            before, self.latest = self.latest, self.engine.submit(self.compute, batch)
            wait([before])
        return [None] * len(requests)  # answers follow by themselves

    def compute(self, batch):
        """Run the engine once over the requests of a batch: (id, samples [n, *shape], where its answer goes) each."""
        try:
            inputs = [x for _, x, _ in batch]
            logits = self.predict(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        except Exception as error:
            self.post.submit(self.fail, batch, f"the engine failed: {error}")
        else:
            self.post.submit(self.answer, batch, logits)

    def answer(self, batch, logits):
        """Send each request of a batch its part of the answer."""
        ends = np.cumsum([len(x) for _, x, _ in batch])[:-1]
        for (name, x, sender), scores in zip(batch, np.split(softmax(logits), ends), strict=True):
            send(sender, answer(scores, self.classes))
            if self.observation:
                self.observation.note(name, x, scores)

    def fail(self, batch, sentence):
        """Tell all requests of a batch why they have no answer."""
        for _, _, sender in batch:
            send(sender, refusal(sentence, pb.TritonError.INTERNAL))


REFUSED = "the input holds NaN or infinite values: send preprocessed samples, or send them encoded to the ensemble"


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


def refusal(sentence, code):
    """Say why there is no answer."""
    return pb.InferenceResponse(error=pb.TritonError(sentence, code))


def send(sender, response):
    """Send a request its only response."""
    sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
