"""`<pipeline>_preprocess` inside Triton: encoded pictures to network input, with the training set's own function.

`package` copies this file, preprocess.py and spec.json into one version folder; it needs nothing else of the project.
"""

import json
from pathlib import Path

import numpy as np
import preprocess
import triton_python_backend_utils as pb


class TritonPythonModel:
    """One instance: a DALI pipeline that preprocesses all requests of a batch at once."""

    def initialize(self, args):
        """Build the pipeline for the largest batch that the server may send."""
        self.spec = json.loads(Path(__file__).with_name("spec.json").read_text())
        self.max_batch_size = max(1, json.loads(args["model_config"])["max_batch_size"])
        self.build()

    def build(self):
        """Make a fresh pipeline: one that failed can't be used again."""
        self.pipeline = preprocess.serving_pipeline(self.spec, self.max_batch_size)

    def execute(self, requests):
        """Answer each request of a batch; only those with a broken picture are refused."""
        pictures = [pb.get_input_tensor_by_name(request, "image").as_numpy().ravel().tolist() for request in requests]
        outputs = iter(self.preprocess([picture for group in pictures for picture in group]))
        return [answer([next(outputs) for _ in group], group) for group in pictures]

    def preprocess(self, pictures):
        """Return one CHW array per picture, or None for one that can't be decoded."""
        try:
            return list(preprocess.run(self.pipeline, pictures))
        except RuntimeError:
            self.build()
        if len(pictures) == 1:
            return [None]
        return [self.preprocess([picture])[0] for picture in pictures]


def answer(outputs, pictures):
    """Join one request's outputs, or say which of its pictures is broken."""
    broken = [i for i, output in enumerate(outputs) if output is None]
    if not broken:
        return pb.InferenceResponse([pb.Tensor("input", np.stack(outputs))])
    place = f"picture {broken[0] + 1} of {len(pictures)}" if len(pictures) > 1 else "the picture"
    size = len(pictures[broken[0]])
    sentence = f"{place} ({size:,} bytes) can't be decoded: send a complete JPEG, PNG, BMP, TIFF or WebP file"
    return pb.InferenceResponse(error=pb.TritonError(sentence, pb.TritonError.INVALID_ARG))
