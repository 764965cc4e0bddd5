"""Read labelled sounds: a tar of WAV files, `<split>/<class>/<name>.wav`."""

import io
import tarfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class Input(BaseModel):
    """What the network is fed: a log-mel spectrogram."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sample_rate: Annotated[int, Field(ge=4000, le=48000)]
    mels: Annotated[int, Field(ge=16, le=128)]
    frames: Annotated[int, Field(ge=16, le=1024)]


class Facts:
    """What spec.json says of the input."""

    def __init__(self, input: Input) -> None:
        self.input = input

    def add(self, samples: Any) -> None:
        """Nothing is measured."""

    def result(self) -> dict[str, Any]:
        """Return the input's own knobs."""
        return self.input.model_dump()


@dataclass(frozen=True)
class Sample:
    """One labelled sound as found."""

    name: str
    split: str
    data: bytes
    label: int | None
    pixels: Any = None
    problem: str | None = None


def read(raw: Path, incoming: Path, classes: list[str], input: Input) -> Iterator[Sample]:
    """Yield every sound of the archive."""
    with tarfile.open(raw / "tones.tar") as archive:
        for member in archive.getmembers():
            split, label, _ = member.name.split("/")
            file = archive.extractfile(member)
            assert file is not None
            yield Sample(member.name, split, file.read(), classes.index(label) if label in classes else None)


def decode(data: bytes, input: Input) -> Any:
    """Return the samples of a WAV file, int16; `ValueError` where it is none."""
    try:
        with wave.open(io.BytesIO(data)) as sound:
            return np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"can't be decoded: {error}") from None


def held_out(data: bytes, input: Input) -> bytes:
    """Return what is kept of a file that judges or calibrates: itself."""
    return data


def training(data: bytes, input: Input) -> list[bytes]:
    """Return what is kept of a file that trains: itself."""
    return [data]


def picture(data: bytes, input: Input) -> Any:
    """Return the loudness of a sound's stretches, as grey tiles."""
    tiles = np.abs(decode(data, input)[:784].astype(np.int64)).reshape(28, 28)
    return (tiles * 255 // max(1, tiles.max())).astype(np.uint8)
