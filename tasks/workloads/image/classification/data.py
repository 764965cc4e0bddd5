"""Batches of labelled images from tar shards, decoded by DALI: augmented for training, plain for everything else."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import shards
from tasks.workloads.image import augment, preprocess

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
) -> Any:
    """Return an iterable of `(x, y)`: x float32 [batch, channels, size, size], y int64 [batch]; it can be walked again.

    With an `augmentation` (augment.json) the samples are shuffled and changed anew in every epoch and the last, short
    batch is dropped; without one they come plain and in order, all of them.
    """
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    graph = pipeline(prepare, split, spec, batch_size, augmentation, seed, device, threads)
    policy = LastBatchPolicy.PARTIAL if augmentation is None else LastBatchPolicy.DROP
    return Batches(
        DALIGenericIterator(graph, ["x", "y"], reader_name="reader", last_batch_policy=policy, auto_reset=True)
    )


def pipeline(
    prepare: Path,
    split: str,
    spec: dict[str, Any],
    batch_size: int,
    augmentation: dict[str, Any] | None,
    seed: int,
    device: str,
    threads: int,
) -> Any:
    """Return the DALI graph: shards -> decode -> augment -> normalise, on the CPU or, same operators, on the GPU."""
    from nvidia.dali import Pipeline, fn, types

    paths = shards.paths(prepare, split)
    training = augmentation is not None
    graph = Pipeline(batch_size=batch_size, num_threads=threads, device_id=0 if device == "gpu" else None, seed=seed)
    with graph:
        components: Any = fn.readers.webdataset(
            name="reader",
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=["image", "label"],
            missing_component_behavior="error",
            random_shuffle=training,
            initial_fill=SHUFFLE_BUFFER,
            pad_last_batch=not training,
            seed=seed,
        )
        encoded, label = components
        image = preprocess.decode(encoded, spec, device)
        flipped: Any = 0
        if augmentation is not None:
            knobs = augment.Augmentation(**augmentation)
            image = augment.augment(image, knobs, spec["image_size"])
            flipped = augment.mirror(knobs)
        graph.set_outputs(preprocess.normalise(image, spec, flipped), fn.reinterpret(label, dtype=types.INT32))
    graph.build()
    return graph


class Batches:
    """Turn DALI's batches into `(x, y)` pairs."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __len__(self) -> int:
        return len(self.iterator)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for (batch,) in self.iterator:
            yield batch["x"], batch["y"].squeeze(-1).long()


def arrays(prepare: Path, split: str, spec: dict[str, Any], batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Yield `(x, y)` as numpy arrays (float32 [n, channels, size, size], int64 [n]) by the server's own pipeline."""
    import numpy as np

    graph = preprocess.serving_pipeline(spec, batch_size, threads=2)
    samples = shards.read(prepare, split)
    while batch := list(itertools.islice(samples, batch_size)):
        yield preprocess.run(graph, [data for data, _ in batch]), np.array([label for _, label in batch], np.int64)
