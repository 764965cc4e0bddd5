"""The live server, asked over gRPC: load models, classify pictures."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from flows.serving import address
from tasks.package import models

LOAD_TIMEOUT_S = 120.0  # a load that can't end hangs for good, and so do all loads after it
ANSWER_TIMEOUT_S = 30.0
BATCH = 50
IN_FLIGHT = 3

Answer = tuple[list[str], Any]  # class names, and scores as float32 [pictures, classes]
Classify = Callable[[Any, str, list[bytes]], Answer]  # client, pipeline, encoded pictures


def connect() -> Any:
    """Return a client of the running server; `ValueError` where there is none."""
    client = triton.InferenceServerClient(address("grpc"))
    try:
        client.is_server_live(client_timeout=ANSWER_TIMEOUT_S)
    except InferenceServerException as error:
        raise ValueError(f"no inference server answers at {address('grpc')}; start it with: make up") from error
    return client


def load(client: Any, model: str) -> None:
    """Load what is new in a model's folder; `ValueError` says why the server did not, and the old keeps serving."""
    try:
        client.load_model(model, client_timeout=LOAD_TIMEOUT_S)
    except InferenceServerException as error:
        remedy = "; restart it: make down, make up" if "DEADLINE" in str(error.status()) else ""
        raise ValueError(f"the server did not load {model}: {error.message()}{remedy}") from error


def unload(client: Any, model: str) -> None:
    """Take a model off the server."""
    client.unload_model(model, client_timeout=LOAD_TIMEOUT_S)


def classify(client: Any, pipeline: str, images: list[bytes]) -> Answer:
    """Classify encoded pictures as every client does: through the pipeline's ensemble."""
    result = client.infer(pipeline, [of_bytes(images)], client_timeout=ANSWER_TIMEOUT_S)
    return names(result), result.as_numpy("scores")


def classify_with(version: int) -> Classify:
    """Return a `classify` that asks one version of the parts, which may not be live yet."""

    def classify_version(client: Any, pipeline: str, images: list[bytes]) -> Answer:
        preprocess, tensor, _ = models(pipeline)
        ask = {"model_version": str(version), "client_timeout": ANSWER_TIMEOUT_S}
        array = client.infer(preprocess, [of_bytes(images)], **ask).as_numpy("input")
        asked = triton.InferInput("input", array.shape, "FP32").set_data_from_numpy(array)
        result = client.infer(tensor, [asked], **ask)
        return names(result), result.as_numpy("scores")

    return classify_version


def of_bytes(images: list[bytes]) -> Any:
    """Encoded pictures as the input `image`, BYTES [pictures, 1]."""
    array = np.array(images, dtype=object).reshape(-1, 1)
    return triton.InferInput("image", array.shape, "BYTES").set_data_from_numpy(array)


def names(result: Any) -> list[str]:
    """Return the class names of an answer."""
    return [name.decode() for name in result.as_numpy("label").ravel()]


def classify_all(client: Any, pipeline: str, images: Iterable[bytes], classify: Classify) -> Answer:
    """Classify any number of pictures, in order, a few batches in flight and none larger than the server takes."""
    size = min(BATCH, max(1, client.get_model_config(models(pipeline)[0]).config.max_batch_size))
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        answers = list(pool.map(lambda batch: classify(client, pipeline, batch), batches(images, size)))
    return [name for labels, _ in answers for name in labels], np.concatenate([scores for _, scores in answers])


def batches(images: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Cut a stream into lists of at most `size`."""
    stream = iter(images)
    while batch := list(islice(stream, size)):
        yield batch
