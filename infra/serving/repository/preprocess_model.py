"""`<pipeline>_preprocess` inside Triton: encoded samples to network input, with the training set's own function.

`package` copies this file, preprocess.py, spec.json and the modality's check.py, where it has one, with what that needs
into one version folder; it needs nothing else of the project.
"""

import importlib
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
        """Build the pipeline for the largest batch that the server may send."""
        self.spec = json.loads(Path(__file__).with_name("spec.json").read_text())
        self.kind = self.spec["workload"].split("/")[0]
        self.max_batch_size = max(1, json.loads(args["model_config"])["max_batch_size"])
        self.check = checker(self.kind)
        self.build()

    def build(self):
        """Make a fresh pipeline: one that failed can't be used again."""
        self.pipeline = preprocess.serving_pipeline(self.spec, self.max_batch_size)

    def execute(self, requests):
        """Answer each request of a batch; only those with a broken sample are refused."""
        groups = [pb.get_input_tensor_by_name(request, self.kind).as_numpy().ravel().tolist() for request in requests]
        complaints = [self.complaint(group) for group in groups]
        samples = [sample for group, said in zip(groups, complaints, strict=True) if said is None for sample in group]
        outputs = iter(self.preprocess(samples))
        return [
            answer([next(outputs) for _ in group], group, self.kind) if said is None else refusal(said)
            for group, said in zip(groups, complaints, strict=True)
        ]

    def complaint(self, samples):
        """Say which of a request's samples `prepare` would not use, and why; None where it would use all."""
        for i, sample in enumerate(samples):
            try:
                self.check(sample, self.spec)
            except ValueError as error:
                return f"{place(i, samples, self.kind)}: {error}"
        return None

    def preprocess(self, samples):
        """Return one array per sample, or None for one that can't be decoded."""
        if not samples:
            return []
        try:
            return list(preprocess.run(self.pipeline, samples))
        except RuntimeError:
            self.build()
        if len(samples) == 1:
            return [None]
        return [self.preprocess([sample])[0] for sample in samples]


def checker(kind):
    """Return what refuses a sample, from its header where that tells, as `prepare` does; a kind may have none."""
    if not Path(__file__).with_name("tasks").exists():
        return lambda sample, spec: None
    return importlib.import_module(f"tasks.modalities.{kind}.check").check


def answer(outputs, samples, kind):
    """Join one request's outputs, or say which of its samples is broken."""
    broken = [i for i, output in enumerate(outputs) if output is None]
    if not broken:
        return pb.InferenceResponse([pb.Tensor("input", np.stack(outputs))])
    which = f"{place(broken[0], samples, kind)} ({len(samples[broken[0]]):,} bytes)"
    return refusal(f"{which} can't be decoded: send a complete {preprocess.FORMATS} file")


def place(i, samples, kind):
    """Name one of a request's samples."""
    return f"{kind} {i + 1} of {len(samples)}" if len(samples) > 1 else f"the {kind}"


def refusal(sentence):
    """Refuse a request, the sentence telling why."""
    return pb.InferenceResponse(error=pb.TritonError(sentence, pb.TritonError.INVALID_ARG))
