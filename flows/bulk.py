"""Many files through the door: each gets an answer, or the sentence that says why not; people who wait come first.

Triton's own classes of requests (priority_levels, queue policies) are not used: in Triton 2.51 each of them, and a
max_queue_size alone, makes a request that arrives during another wait for up to 0.5 s (benchmarks/classes.py). So the
door holds bulk work back: its class may have few requests under way.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flows import addresses, tokens
from flows.reading import Row, reader
from flows.replicas import knobs as serving_knobs
from tasks.params import block, read

BULK = f"{tokens.THROUGHPUT}/{tokens.BULK}"
PATIENCE_S = 120.0  # without any answer; the supervisor replaces a server within 60 s
PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # before a request is sent again, twice as long each time
ITS_OWN_FAULT = "INVALID_ARGUMENT"
HOPELESS = ("UNAUTHENTICATED", "UNIMPLEMENTED", "PERMISSION_DENIED")


@dataclass
class Bulk:
    """A client of the door for one pipeline; to be shared by threads, of which `in_flight` may ask at a time."""

    pipeline: str
    folder: Path
    in_flight: int = field(init=False)
    batch: int = field(init=False)

    def __post_init__(self) -> None:
        import tritonclient.grpc as triton

        section, knobs = block(self.pipeline, read()), serving_knobs()
        self.in_flight = knobs.throughput.max_in_flight
        self.batch = min(knobs.throughput.batch, section["package"]["max_batch_size"])
        self.kind, self.reader = section["modality"], reader(self.pipeline, self.folder)
        self.client = triton.InferenceServerClient(addresses.address("GRPC"))
        self.headers = {"authorization": f"Bearer {tokens.keys()[BULK]}"}
        self.turns = threading.Semaphore(self.in_flight)

    def rows(self, paths: list[Path]) -> list[Row]:
        """Return one row per file, in their order; `ValueError` where no server answers for `PATIENCE_S`."""
        found: dict[Path, Row] = {}
        for request in self.requests(paths, found):
            found |= self.answers(request)
        return [found[path] for path in paths]

    def requests(self, paths: list[Path], refused: dict[Path, Row]) -> Iterator[dict[Path, bytes]]:
        """Yield files that fit one message; those that can't be used get their row in `refused`."""
        request: dict[Path, bytes] = {}
        size = 0
        for path in paths:
            try:
                data = self.reader.sound(path)
            except ValueError as error:
                refused[path] = Row(self.reader.name(path), error=str(error))
                continue
            if request and size + len(data) > self.reader.room:
                yield request
                request, size = {}, 0
            request[path] = data
            size += len(data) + 4
        if request:
            yield request

    def answers(self, request: dict[Path, bytes]) -> dict[Path, Row]:
        """Return a row per file; the server refuses a message as a whole, so a bad file is found by halving it."""
        reply = self.asked(request)
        if not isinstance(reply, str):
            version = int(reply.get_response().model_version)
            labels, scores = reply.as_numpy("label").ravel(), reply.as_numpy("scores")
            return {
                path: Row(self.reader.name(path), label.decode(), float(each.max()), each, version)
                for path, label, each in zip(request, labels, scores, strict=True)
            }
        if len(request) == 1:
            return {path: Row(self.reader.name(path), error=reply) for path in request}
        items, middle = list(request.items()), len(request) // 2
        return self.answers(dict(items[:middle])) | self.answers(dict(items[middle:]))

    def asked(self, request: dict[Path, bytes]) -> Any:
        """Return the server's reply, or its sentence where something in the message is at fault; waits out the rest."""
        import tritonclient.grpc as triton
        from tritonclient.utils import InferenceServerException

        samples = np.array(list(request.values()), dtype=object).reshape(-1, 1)
        message = triton.InferInput(self.kind, samples.shape, "BYTES").set_data_from_numpy(samples)
        timeout_s, begun, pause = serving_knobs().timeout_s + LONGEST_PAUSE_S, time.monotonic(), PAUSE_S
        while True:
            try:
                with self.turns:
                    return self.client.infer(self.pipeline, [message], headers=self.headers, client_timeout=timeout_s)
            except InferenceServerException as error:
                status, said = str(error.status()), str(error.message())
            if ITS_OWN_FAULT in status:
                return said.removeprefix(f"in ensemble '{self.pipeline}', ")
            if any(each in status for each in HOPELESS) or time.monotonic() - begun > PATIENCE_S:
                waited = (
                    f"for {time.monotonic() - begun:.0f} s the answer for {self.reader.name(next(iter(request)))} was: "
                )
                remedy = "what is done is kept: once the servers are up (make up), the same command goes on"
                raise ValueError(f"score: {waited}{said} ({status.removeprefix('StatusCode.')}); {remedy}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
