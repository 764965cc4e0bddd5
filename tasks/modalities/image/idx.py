"""MNIST-style pairs of files: images as they are in memory, and their labels."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IMAGES = 0x803  # what a file of images begins with


def read(raw: Path, prefix: str) -> Iterator[tuple[Any, int]]:
    """Yield the pixels, HW uint8, and the label of each image; `ValueError` where two files are no pair."""
    import numpy as np

    content = (raw / f"{prefix}-images-idx3-ubyte").read_bytes()
    magic, count, height, width = struct.unpack(">IIII", content[:16])
    labels = np.frombuffer((raw / f"{prefix}-labels-idx1-ubyte").read_bytes(), np.uint8)[8:]
    if magic != IMAGES or len(content) != 16 + count * height * width or len(labels) != count:
        raise ValueError(f"{raw}/{prefix}-*: not a matching pair of idx files")
    images = np.frombuffer(content, np.uint8)[16:].reshape(count, height, width)
    yield from ((pixels, int(label)) for pixels, label in zip(images, labels, strict=True))


def encode(pixels: Any) -> bytes:
    """Encode an HW or HWC uint8 array as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
