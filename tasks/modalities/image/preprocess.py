"""Encoded image to network input: the one definition, in DALI, for training, evaluation and the server.

`package` copies this file into the model repository, so it imports nothing of this project.
"""

from collections.abc import Callable
from typing import Any

FORMATS = "JPEG, PNG, BMP, TIFF or WebP"
MOST_THREADS = 4  # that resize at a time: more would wait for Python


def decode(encoded: Any, spec: dict[str, Any], device: str = "cpu") -> Any:
    """Decode JPEG, PNG, BMP... and resize: (bytes,) -> HWC uint8 of `image_size` x `image_size` x `channels`."""
    return resize(pixels(encoded, spec, device), spec)


def pixels(encoded: Any, spec: dict[str, Any], device: str = "cpu", **crop: Any) -> Any:
    """Decode: (bytes,) -> HWC uint8, as large as it comes.

    A CUDA device decodes with `mixed` operators (bytes on the host, pixels on the GPU). With a `crop` (`random_area`,
    `random_aspect_ratio`) a random part is decoded in the place of the whole.
    """
    from nvidia.dali import fn, types

    colours = {1: types.GRAY, 3: types.RGB}[spec["channels"]]
    decoder = fn.decoders.image_random_crop if crop else fn.decoders.image
    return decoder(encoded, device="mixed" if device == "gpu" else "cpu", output_type=colours, **crop)


def resize(image: Any, spec: dict[str, Any]) -> Any:
    """HWC uint8 -> HWC uint8 of `image_size` x `image_size`, each pixel the mean of those it covers."""
    from nvidia.dali import fn, types

    return fn.resize(image, size=[spec["image_size"]] * 2, interp_type=types.INTERP_LINEAR, antialias=True)


def resizer(size: int) -> Callable[[list[Any]], list[Any]]:
    """Return what resizes images [h, w, channels] on the CPU as `resize` does, to two levels of 255; for training.

    torch has vector code for bytes: with it training's input, stored as JPEG, does 0.74 of decoding alone, and did 0.47
    with DALI's own resize (benchmarks/input.py, n=5, AVX2).
    """
    import os
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from torch.nn.functional import interpolate

    threads = min(MOST_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)

    def resize_some(images: list[Any], resized: Any) -> None:
        for image, place in zip(images, resized, strict=True):
            x = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # so it is known as channels-last
            place.copy_(interpolate(x, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0))

    def resize_all(images: list[Any]) -> list[Any]:
        resized = torch.empty((len(images), size, size, images[0].shape[2]), dtype=torch.uint8)
        parts = [slice(first, None, threads) for first in range(threads)]
        for job in [pool.submit(resize_some, images[part], resized[part]) for part in parts]:
            job.result()
        return list(resized.numpy())

    return resize_all


def normalise(image: Any, spec: dict[str, Any], mirror: Any = 0) -> Any:
    """HWC uint8 -> CHW float32 with the training set's mean and std (0..255 scale, per channel) taken out."""
    from nvidia.dali import fn, types

    return fn.crop_mirror_normalize(
        image, dtype=types.FLOAT, output_layout="CHW", mean=spec["mean"], std=spec["std"], mirror=mirror
    )


def preprocess(encoded: Any, spec: dict[str, Any], device: str = "cpu") -> Any:
    """(bytes,) -> CHW float32, exactly what the network saw in training, without augmentation."""
    return normalise(decode(encoded, spec, device), spec)


def serving_pipeline(spec: dict[str, Any], batch_size: int, threads: int = 1, device: str = "cpu") -> Any:
    """Return a built pipeline that is fed 1-D uint8 arrays as `image` (at most `batch_size`) and gives CHW float32."""
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=0 if device == "gpu" else None,
        prefetch_queue_depth=1,
        exec_pipelined=False,
        exec_async=False,
    )
    with pipeline:
        encoded = fn.external_source(name="image", dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(preprocess(encoded, spec, device))
    pipeline.build()
    return pipeline


def run(pipeline: Any, images: list[bytes]) -> Any:
    """Preprocess encoded images with a `serving_pipeline`: list of bytes -> NCHW float32 numpy array."""
    import numpy as np

    pipeline.feed_input("image", [np.frombuffer(data, np.uint8) for data in images])
    return np.array(pipeline.run()[0].as_array())
