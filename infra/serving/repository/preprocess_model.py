"""`<pipeline>_preprocess` inside Triton: encoded samples to network input, with the training set's own function.

`package` copies this file, preprocess.py, spec.json and the modality's check.py, where it has one, with what that needs
into one version folder; it needs nothing else of the project.
"""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import preprocess
import triton_python_backend_utils as pb

NICE = 5


class TritonPythonModel:
    """One instance: a DALI pipeline that preprocesses all requests of a batch at once."""

    def initialize(self, args):
        """Build the pipeline for the largest batch that the server may send, with as many threads as configured.

        At a lower priority than the engines, DALI's import included: who sends tensors waits for the engines alone.
        """
        os.nice(NICE)
        from nvidia.dali._utils import dali_trace

        # This server's Python knows ASCII paths only: DALI, noting which lines made an operator, would die in a folder
        # named ü.
        dali_trace.set_tracing(enabled=False)
        self.spec = json.loads(Path(__file__).with_name("spec.json").read_bytes())
        self.kind = self.spec["workload"].split("/")[0]
        config = json.loads(args["model_config"])
        self.max_batch_size = max(1, config["max_batch_size"])
        self.threads = int(config["parameters"]["threads"]["string_value"])
        self.check = checker(self.kind)
        self.build()

    def build(self):
        """Make a fresh pipeline: one that failed can't be used again."""
        self.pipeline = preprocess.serving_pipeline(self.spec, self.max_batch_size, self.threads)

    def execute(self, requests):
        """Answer each request of a batch; only those with a broken sample are refused."""
        groups = [pb.get_input_tensor_by_name(request, self.kind).as_numpy().ravel().tolist() for request in requests]
        sizes, complaints = zip(*map(self.judged, groups), strict=True)
        outputs = iter(self.in_portions([i for i, said in enumerate(complaints) if said is None], groups, sizes))
        return [
            answer(next(outputs), group, self.kind) if said is None else refusal(said)
            for group, said in zip(groups, complaints, strict=True)
        ]

    def judged(self, samples):
        """Return how much a request decodes to, and which of its samples `prepare` would not use and why, or None."""
        size = 0
        for i, sample in enumerate(samples):
            try:
                size += self.check.check(sample) if self.check else 0
            except ValueError as error:
                return size, f"{place(i, samples, self.kind)}: {error}"
        if self.check and size > self.check.LARGEST:
            return size, f"the {self.kind}s of the request are {size:,} {self.check.UNIT} together, {self.check.REMEDY}"
        return size, None

    def in_portions(self, chosen, groups, sizes):
        """Yield the outputs of each chosen request; no more is decoded at once than one request may hold."""
        portion, total = [], 0
        for i in chosen:
            if portion and self.check and total + sizes[i] > self.check.LARGEST:
                yield from self.together([groups[j] for j in portion])
                portion, total = [], 0
            portion.append(i)
            total += sizes[i]
        yield from self.together([groups[j] for j in portion])

    def together(self, groups):
        """Yield the outputs of each request, all of them decoded as one batch."""
        outputs = iter(self.preprocess([sample for group in groups for sample in group]))
        for group in groups:
            yield [next(outputs) for _ in group]

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
    """Return the module that refuses a sample by its header, as `prepare` does, or None: a kind may have none."""
    if not Path(__file__).with_name("tasks").exists():
        return None
    return importlib.import_module(f"tasks.modalities.{kind}.check")


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
