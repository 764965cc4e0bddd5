"""Batches of labelled samples from tar shards, by DALI: augmented for training, plain for everything else."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks import shards
from tasks.workload import part

SHUFFLE_BUFFER = 4096  # samples; the shards themselves are already in random (content hash) order


def loader(
    prepare: Path,
    split: str,
    spec: dict[str, Any],
    batch_size: int,
    augmentation: dict[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 2,
    rank: int = 0,
    ranks: int = 1,
) -> "Batches":
    """Return an iterable of `(x, y)`: x float32 [batch, *shape], y int64 [batch]; it can be walked again.

    With an `augmentation` (augment.json) the samples are shuffled and changed anew in every epoch and the last, short
    batch is dropped; without one they come plain and in order, all of them. Of several processes each `rank` gives its
    part of the samples, another one in every epoch, and all give as many batches: the last may be of no sample.
    """
    return Batches(prepare, split, spec, batch_size, augmentation, seed, device, threads, rank, ranks)


class Batches:
    """DALI's batches as `(x, y)` pairs; its `state_dict` lets a training go on with the very next batch.

    The next batch is fetched while the last is used: DALI's own call takes a millisecond, 3 % of a small step.
    """

    def __init__(self, *graph: Any) -> None:
        self.graph, self.training, self.ranks = graph, graph[4] is not None, graph[-1]
        self.given, self.resumed = 0, False  # batches given in this epoch; whether the next walk goes on with it
        self.waited = 0.0  # seconds that those who asked for a batch waited for it, in all
        self.iterator = self.walk(None)
        self.before = self.after = self.checkpoint()  # DALI's around the batch given last

    def walk(self, checkpoint: bytes | None) -> Any:
        """Return DALI's iterator over the graph, from its start or from a checkpoint."""
        from nvidia.dali.plugin.base_iterator import LastBatchPolicy
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        policy = LastBatchPolicy.DROP if self.training and self.ranks == 1 else LastBatchPolicy.PARTIAL
        graph = pipeline(*self.graph, checkpoint)  # type: ignore[call-arg]
        self.samples = graph.reader_meta("reader")["epoch_size"]
        return DALIGenericIterator(graph, ["x", "y"], reader_name="reader", last_batch_policy=policy, auto_reset=True)

    def __len__(self) -> int:
        if self.training and self.ranks > 1:  # DALI pads to the longest part; what is left over is dropped here
            return self.samples // self.ranks // self.graph[3]
        return len(self.iterator)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        self.given, self.resumed = self.given if self.resumed else 0, False
        batches = iter(self.iterator)
        with ThreadPoolExecutor(1) as aside:
            fetched = aside.submit(self.fetch, batches, self.given + 1)
            while (found := self.settled(fetched)) is not None:
                fetched = aside.submit(self.fetch, batches, self.given + 2)
                x, y, checkpoint = found
                self.given, self.before, self.after = self.given + 1, self.after, checkpoint
                yield x, y

    def fetch(self, batches: Any, number: int) -> tuple[Any, Any, bytes] | None:
        """Return DALI's next batch, which has this number, and its checkpoint behind it, None at an epoch's end."""
        (batch,) = next(batches, (None,))
        while batch is not None and number > len(self):
            (batch,) = next(batches, (None,))
        if batch is None:
            return None
        return batch["x"], batch["y"].squeeze(-1).long(), self.checkpoint()

    def checkpoint(self) -> bytes:
        """Return DALI's own, behind the batch that it gave last; nothing for validation, which starts afresh."""
        return bytes(self.iterator.checkpoints()[0]) if self.training else b""

    def settled(self, fetched: Future[Any]) -> Any:
        """Return what was fetched; note how long that took."""
        asked = time.monotonic()
        found = fetched.result()
        self.waited += time.monotonic() - asked
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return where the data stands, as tensors and numbers: DALI's own checkpoint, random states and all."""
        import torch

        if not self.training:
            return {}
        checkpoint = self.before if self.given == len(self) else self.after
        return {"given": self.given, "dali": torch.frombuffer(bytearray(checkpoint), dtype=torch.uint8)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: within an epoch with its next batch, at its end with the next epoch.

        DALI does not go on from a checkpoint of an epoch's end as it would have, so the last batch is drawn again.
        """
        if not state:
            return
        self.before = self.after = state["dali"].numpy().tobytes()
        self.iterator = self.walk(self.after)
        self.given, self.resumed = state["given"], state["given"] < len(self)
        if not self.resumed:
            batches = iter(self.iterator)
            for number in (self.given, self.given + 1):
                self.fetch(batches, number)


def pipeline(
    prepare: Path,
    split: str,
    spec: dict[str, Any],
    batch_size: int,
    augmentation: dict[str, Any] | None,
    seed: int,
    device: str,
    threads: int,
    rank: int,
    ranks: int,
    checkpoint: bytes | None,
) -> Any:
    """Return the DALI graph, shards -> the modality's operators -> tensors, on the CPU or, the same, on the GPU."""
    from nvidia.dali import Pipeline, fn, types

    paths = shards.paths(prepare, split)
    training = augmentation is not None
    graph = Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=current_gpu() if device == "gpu" else None,
        seed=seed + rank,
        enable_checkpointing=training,
        exec_dynamic=True,  # lets functions of Python join in
        checkpoint=checkpoint,
    )
    with graph:
        components: Any = fn.readers.webdataset(
            name="reader",
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=["sample", "label"],
            missing_component_behavior="error",
            random_shuffle=training,
            initial_fill=SHUFFLE_BUFFER,
            pad_last_batch=not training or ranks > 1,
            shard_id=rank,
            num_shards=ranks,
            seed=seed,
        )
        encoded, label = components
        if augmentation is None:
            x = part(spec["workload"], "preprocess").preprocess(encoded, spec, device)
        else:
            changes = part(spec["workload"], "augment")
            x = changes.augmented(encoded, changes.Augmentation(**augmentation), spec, device)
        graph.set_outputs(x, fn.reinterpret(label, dtype=types.INT32))
    graph.build()
    return graph


def current_gpu() -> int:
    """Return the GPU that torch was given."""
    import torch

    return int(torch.cuda.current_device())


def arrays(prepare: Path, split: str, spec: dict[str, Any], batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Yield `(x, y)` as numpy arrays (float32 [n, *shape], int64 [n]) by the server's own pipeline."""
    import numpy as np

    preprocess = part(spec["workload"], "preprocess")
    graph = preprocess.serving_pipeline(spec, batch_size, threads=2)
    samples = shards.read(prepare, split)
    while batch := list(itertools.islice(samples, batch_size)):
        yield preprocess.run(graph, [data for data, _ in batch]), np.array([label for _, label in batch], np.int64)
