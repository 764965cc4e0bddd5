"""Encoded sound to network input, in DALI, for training, evaluation and the server."""

from typing import Any

FORMATS = "WAV, FLAC or OGG"
QUIETEST_DB = -80.0


def preprocess(encoded: Any, spec: dict[str, Any], device: str = "cpu") -> Any:
    """(bytes,) -> log-mel spectrogram, float32 [1, mels, frames], from 0 to 1."""
    from nvidia.dali import fn

    sound, _ = fn.decoders.audio(encoded, downmix=True, sample_rate=spec["sample_rate"])
    power = fn.spectrogram(sound, nfft=256, window_length=256, window_step=32)
    mels = fn.mel_filter_bank(power, sample_rate=spec["sample_rate"], nfilter=spec["mels"])
    decibels = fn.to_decibels(mels, cutoff_db=QUIETEST_DB)
    cut = fn.slice(
        decibels,
        0,
        spec["frames"],
        axes=[1],
        normalized_shape=False,
        out_of_bounds_policy="pad",
        fill_values=QUIETEST_DB,
    )
    return fn.expand_dims(cut / -QUIETEST_DB + 1, axes=0)


def serving_pipeline(spec: dict[str, Any], batch_size: int, threads: int = 1, device: str = "cpu") -> Any:
    """Return a built pipeline that is fed 1-D uint8 arrays as `sound`."""
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=None,
        prefetch_queue_depth=1,
        exec_pipelined=False,
        exec_async=False,
    )
    with pipeline:
        encoded = fn.external_source(name="sound", dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(preprocess(encoded, spec, device))
    pipeline.build()
    return pipeline


def run(pipeline: Any, sounds: list[bytes]) -> Any:
    """Preprocess encoded sounds: list of bytes -> numpy float32 [n, 1, mels, frames]."""
    import numpy as np

    pipeline.feed_input("sound", [np.frombuffer(data, np.uint8) for data in sounds])
    return np.array(pipeline.run()[0].as_array())
