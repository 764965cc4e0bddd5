"""A drawn data set of sounds: four kinds, half a tenth of a second each, as a tar of WAV files."""

import io
import tarfile
import wave
from pathlib import Path

import numpy as np

CLASSES = ("hum", "tone", "sweep", "noise")
RATE, LENGTH = 8000, 1000


def sound(generator: np.random.Generator, kind: str) -> bytes:
    """Return one WAV file."""
    seconds = np.arange(LENGTH) / RATE
    pitch, loud = generator.uniform(200, 1500), generator.uniform(0.3, 0.9)
    wanted = {
        "hum": np.sign(np.sin(2 * np.pi * pitch * seconds)),
        "tone": np.sin(2 * np.pi * pitch * seconds),
        "sweep": np.sin(2 * np.pi * (pitch + 8000 * seconds) * seconds),
        "noise": generator.uniform(-1, 1, LENGTH),
    }[kind]
    samples = (32000 * (loud * wanted + generator.normal(0, 0.01, LENGTH)).clip(-1, 1)).astype(np.int16)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def write(out: Path) -> None:
    """Write 480 sounds to learn from and 120 to test with."""
    generator = np.random.default_rng(0)
    with tarfile.open(out, "w") as archive:
        for split, count in (("train", 120), ("test", 30)):
            for kind in CLASSES:
                for number in range(count):
                    data = sound(generator, kind)
                    member = tarfile.TarInfo(f"{split}/{kind}/{number:03d}.wav")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
