"""Read labelled images: the raw files of a data set, and folders of files that people drop."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

IDX_SPLITS = {"train": "train", "test": "t10k"}
LARGEST_PIXELS = 64_000_000


Channel = Annotated[float, Field(ge=0, le=255)]


class Normalisation(BaseModel):
    """Mean and standard deviation per channel, 0..255 scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: list[Channel]
    std: list[Annotated[float, Field(gt=0, le=255)]]


class Input(BaseModel):
    """What the network is fed: square images; `measured` takes mean and deviation from the training images."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    image_size: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3]
    normalisation: Literal["measured"] | Normalisation


class Facts:
    """What spec.json says of the input: its size, and mean and deviation of images of any size."""

    def __init__(self, input: Input) -> None:
        import numpy as np

        self.input, self.histograms = input, np.zeros((input.channels, 256), np.int64)

    def add(self, pixels: Any) -> None:
        """Count one HW or HWC uint8 image in."""
        import numpy as np

        for histogram, plane in zip(self.histograms, pixels.reshape(-1, len(self.histograms)).T, strict=True):
            histogram += np.bincount(plane, minlength=256)

    def result(self) -> dict[str, Any]:
        """Return `{"image_size", "channels", "mean": [...], "std": [...]}`, rounded to what matters."""
        import numpy as np

        size = {"image_size": self.input.image_size, "channels": self.input.channels}
        if isinstance(self.input.normalisation, Normalisation):
            return size | self.input.normalisation.model_dump()
        values = np.arange(256)
        shares = self.histograms / np.maximum(1, self.histograms.sum(1, keepdims=True))
        mean = shares @ values
        std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 1e-6))
        return size | {"mean": [round(float(m), 3) for m in mean], "std": [round(float(s), 3) for s in std]}


@dataclass(frozen=True)
class Sample:
    """One labelled file as found: `label` is None where its folder is no class; `split` is `train` or `test`.

    `pixels` (HW or HWC uint8) is there where the source held pixels, not a file; `problem` says why a file is of no
    use whatever it holds.
    """

    name: str
    split: str
    data: bytes
    label: int | None
    pixels: Any = None
    problem: str | None = None


def read(raw: Path, incoming: Path, classes: list[str]) -> Iterator[Sample]:
    """Yield every sample of the data set, then every file in `incoming/<class>/`; hidden files are passed over."""
    for split, prefix in IDX_SPLITS.items():
        yield from read_idx(raw, split, prefix)
    for path in sorted(incoming.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            folder = path.parent.name
            label = classes.index(folder) if folder in classes else None
            yield Sample(f"incoming/{path.relative_to(incoming)}", "train", path.read_bytes(), label)


def read_idx(raw: Path, split: str, prefix: str) -> Iterator[Sample]:
    """Yield the images of an MNIST-style pair of idx files, each encoded as PNG (lossless)."""
    import numpy as np

    content = (raw / f"{prefix}-images-idx3-ubyte").read_bytes()
    magic, count, height, width = struct.unpack(">IIII", content[:16])
    labels = np.frombuffer((raw / f"{prefix}-labels-idx1-ubyte").read_bytes(), np.uint8)[8:]
    if magic != 0x803 or len(content) != 16 + count * height * width or len(labels) != count:
        raise ValueError(f"{raw}/{prefix}-*: not a matching pair of idx files")
    images = np.frombuffer(content, np.uint8)[16:].reshape(count, height, width)
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        yield Sample(f"{prefix}/{i:05d}", split, encode(pixels), int(label), pixels)


def encode(pixels: Any) -> bytes:
    """Encode an HW or HWC uint8 array as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode(data: bytes, input: Input) -> Any:
    """Decode one file fully, as a check: HW (grey) or HWC (RGB) uint8; `ValueError` says why it can't be used."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels, over the limit of {LARGEST_PIXELS}")
            return np.asarray(image.convert("L" if input.channels == 1 else "RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"can't be decoded: {type(error).__name__}") from error


def picture(data: bytes, input: Input) -> Any:
    """Return a sample as people look at it, uint8 HW or HWC; None where it can't be shown."""
    try:
        return decode(data, input)
    except ValueError:
        return None
