"""The live servers, asked over gRPC: load models, classify samples."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from flows.replicas import Replica, replicas
from flows.repository import names

LOAD_TIMEOUT_S = 120.0  # a load that can't end hangs for good, and so do all loads after it
ANSWER_TIMEOUT_S = 30.0
UP_S = 30.0  # that a replica which is down when a deploy begins may take to come up
BATCH = 50
IN_FLIGHT = 3
OURS = "canary"  # id of our own requests, which models do not count among their clients'

Answer = tuple[list[str], Any]  # class names, and scores as float32 [samples, classes]


@dataclass(frozen=True)
class Served:
    """A pipeline on the server: what clients get or, where a version is named, its parts, which may not be live yet."""

    client: Any
    pipeline: str
    version: int | None = None

    def classify(self, samples: list[bytes], name: str) -> Answer:
        """Classify encoded samples, at most as many as the server takes at once; `name` is that of the input."""
        asked, models = of_bytes(samples, name), self.models()
        for model in models[:-1]:
            array = self.infer(model, asked).as_numpy("input")
            asked = triton.InferInput("input", array.shape, "FP32").set_data_from_numpy(array)
        result = self.infer(models[-1], asked)
        return [name.decode() for name in result.as_numpy("label").ravel()], result.as_numpy("scores")

    def infer(self, model: str, asked: Any) -> Any:
        """Ask a model."""
        return self.client.infer(model, [asked], request_id=OURS, client_timeout=ANSWER_TIMEOUT_S)

    def classify_all(self, samples: Iterable[bytes]) -> Answer:
        """Classify any number of samples, in order, a few batches in flight."""
        config = self.client.get_model_config(self.models()[0]).config
        name, size = config.input[0].name, min(BATCH, config.max_batch_size)
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            answers = list(pool.map(lambda batch: self.classify(batch, name), batches(samples, size)))
        return [name for labels, _ in answers for name in labels], np.concatenate([scores for _, scores in answers])

    def models(self) -> list[str]:
        """Name the models to ask, one after the other."""
        return [self.pipeline] if self.version is None else names(self.pipeline, self.version)


@contextlib.contextmanager
def fleet() -> Iterator[list[Any]]:
    """Give a client of each replica, the first first; `ValueError` where one is not up in the time to be replaced."""
    deadline = time.monotonic() + UP_S
    with contextlib.ExitStack() as stack:
        clients = []
        for replica in replicas():
            clients.append(stack.enter_context(replica.client()))
            await_answer(clients[-1], replica, deadline)
        yield clients


def await_answer(client: Any, replica: Replica, deadline: float) -> None:
    """Return once a replica answers; the supervisor may have started it just now. `ValueError` at the deadline."""
    while not answers(client):
        if time.monotonic() > deadline:
            remedy = "start it with: make up; where it was up, the supervisor is at it, try again"
            raise ValueError(f"{replica.name} does not answer at {replica.grpc}; {remedy}")
        time.sleep(0.2)


def answers(client: Any) -> bool:
    """Tell whether a replica is there, its models loaded or not."""
    try:
        return bool(client.is_server_live(client_timeout=ANSWER_TIMEOUT_S))
    except InferenceServerException:
        return False


def load(client: Any, model: str) -> None:
    """Load what is new of a model; `ValueError` says why the server did not, and what was live stays so."""
    try:
        client.load_model(model, client_timeout=LOAD_TIMEOUT_S)
    except InferenceServerException as error:
        remedy = "; restart it: make down, make up" if "DEADLINE" in str(error.status()) else ""
        raise ValueError(f"the server did not load {model}: {error.message()}{remedy}") from error


def unload(client: Any, model: str) -> None:
    """Take a model off the server; nothing happens where it is not there."""
    client.unload_model(model, client_timeout=LOAD_TIMEOUT_S)


def everywhere(act: Callable[[Any, str], None], clients: list[Any], models: list[str]) -> None:
    """Load or unload models on every replica at once, one after the other on each; none of them may be answering."""

    def act_on_all(client: Any) -> None:
        for model in models:
            act(client, model)

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(act_on_all, clients))


def of_bytes(samples: list[bytes], name: str) -> Any:
    """Encoded samples as an input, BYTES [samples, 1]."""
    array = np.array(samples, dtype=object).reshape(-1, 1)
    return triton.InferInput(name, array.shape, "BYTES").set_data_from_numpy(array)


def batches(samples: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Cut a stream into lists of at most `size`."""
    stream = iter(samples)
    while batch := list(islice(stream, size)):
        yield batch
