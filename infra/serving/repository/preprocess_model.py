"""`<pipeline>_preprocess` inside Triton: encoded samples to network input, with the training set's own function.

`package` copies this file, preprocess.py and spec.json into one version folder; it needs nothing else of the project.
"""

import json
from pathlib import Path

import numpy as np
import preprocess
import triton_python_backend_utils as pb
from nvidia.dali._utils import dali_trace

# This server's Python knows ASCII paths only: DALI, noting which lines made an operator, would die in a folder named ü.
dali_trace.set_tracing(enabled=False)


class TritonPythonModel:
    """One instance: a DALI pipeline that preprocesses all requests of a batch at once."""

    def initialize(self, args):
        """Build the pipeline for the largest batch that the server may send, with as many threads as configured."""
        self.spec = json.loads(Path(__file__).with_name("spec.json").read_text())
        self.kind = self.spec["workload"].split("/")[0]
        config = json.loads(args["model_config"])
        self.max_batch_size = max(1, config["max_batch_size"])
        self.threads = int(config["parameters"]["threads"]["string_value"])
        self.build()

    def build(self):
        """Make a fresh pipeline: one that failed can't be used again."""
        self.pipeline = preprocess.serving_pipeline(self.spec, self.max_batch_size, self.threads)

    def execute(self, requests):
        """Answer each request of a batch; only those with a broken sample are refused."""
        groups = [pb.get_input_tensor_by_name(request, self.kind).as_numpy().ravel().tolist() for request in requests]
        outputs = iter(self.preprocess([sample for group in groups for sample in group]))
        return [answer([next(outputs) for _ in group], group, self.kind) for group in groups]

    def preprocess(self, samples):
        """Return one array per sample, or None for one that can't be decoded."""
        try:
            return list(preprocess.run(self.pipeline, samples))
        except RuntimeError:
            self.build()
        if len(samples) == 1:
            return [None]
        return [self.preprocess([sample])[0] for sample in samples]


def answer(outputs, samples, kind):
    """Join one request's outputs, or say which of its samples is broken."""
    broken = [i for i, output in enumerate(outputs) if output is None]
    if not broken:
        return pb.InferenceResponse([pb.Tensor("input", np.stack(outputs))])
    place = f"{kind} {broken[0] + 1} of {len(samples)}" if len(samples) > 1 else f"the {kind}"
    size = len(samples[broken[0]])
    sentence = f"{place} ({size:,} bytes) can't be decoded: send a complete {preprocess.FORMATS} file"
    return pb.InferenceResponse(error=pb.TritonError(sentence, pb.TritonError.INVALID_ARG))
