"""`<pipeline>_engine` inside Triton: network input to class name and scores, with the chosen engine.

`package` copies this file, observation.py, observed.py, the engine with the backend that loads it, and spec.json into
one version folder; it needs nothing else of the project.

Between two batches an engine would wait for the server. So a slow one runs in a thread of its own and has the next
batch before it is done with this one; its answers are sent one by one. That costs a fast engine, which shares its
batches among many requests, more than it gives: all answers of its batch go back in one message.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import

import backend
import numpy as np
import observation
import triton_python_backend_utils as pb

SLOW_S = 0.004  # that an engine takes for one sample


class TritonPythonModel:
    """One instance: a loaded engine that answers all requests of a batch at once."""

    def initialize(self, args):
        """Load the engine, with as many threads as the model's configuration says, and see how fast it is."""
        folder = Path(os.path.relpath(Path(__file__).parent))  # this server's Python can hand on ASCII paths only
        spec = json.loads((folder / "spec.json").read_bytes())
        self.classes = spec["classes"]
        threads = int(json.loads(args["model_config"])["parameters"]["threads"]["string_value"])
        self.engine, self.post = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.predict = self.engine.submit(backend.load, folder / f"engine{backend.SUFFIX}", threads).result()
        sample = np.zeros((1, *spec["shape"]), np.float32)
        self.latest = self.engine.submit(lambda: min(seconds(self.predict, sample) for _ in range(3)))
        self.is_slow = self.latest.result() > SLOW_S
        self.observation = observation.observation(args["model_name"], self.classes, counter)

    def finalize(self):
        """Answer what is under way, and hand on what was noted last."""
        self.engine.shutdown()
        self.post.shutdown()
        if self.observation:
            self.observation.end()

    def execute(self, requests):
        """Answer each request of a batch; only those with a NaN or an infinity are refused."""
        inputs = [pb.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        batch = [(*each, bool(np.isfinite(each[1]).all())) for each in zip(requests, inputs, strict=True)]
        sound = [(request, x) for request, x, is_sound in batch if is_sound]
        if not self.is_slow:
            answers = iter(self.answers(sound, self.run(sound)) if sound else [])
            return [next(answers) if is_sound else refusal() for *_, is_sound in batch]
        for request, _, is_sound in batch:
            if not is_sound:
                send(request, refusal())
        if sound:
            before, self.latest = self.latest, self.engine.submit(self.run, sound)
            self.post.submit(self.send_all, sound, self.latest)
            wait([before])  # the engine is at this batch now: the server may gather the next
        return [None] * len(batch)

    def run(self, batch):
        """Run the engine once over requests with their samples [n, *shape]; return all logits."""
        inputs = [x for _, x in batch]
        return self.predict(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))

    def send_all(self, batch, run):
        """Send each request of a batch its answer once the engine ran, or why there is none."""
        try:
            responses = self.answers(batch, run.result())
        except Exception as error:
            responses = [pb.InferenceResponse(error=pb.TritonError(f"the engine failed: {error}")) for _ in batch]
        for (request, _), response in zip(batch, responses, strict=True):
            send(request, response)

    def answers(self, batch, logits):
        """Return each request's answer, and note it."""
        ends = np.cumsum([len(x) for _, x in batch])[:-1]
        found = np.split(softmax(logits), ends)
        if self.observation:
            for (request, x), scores in zip(batch, found, strict=True):
                self.observation.note(request.request_id(), x, scores)
        return [answer(scores, self.classes) for scores in found]


def seconds(predict, x):
    """Time one call."""
    begun = time.perf_counter()
    predict(x)
    return time.perf_counter() - begun


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


def send(request, response):
    """Send a request its only response."""
    request.get_response_sender().send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
