"""Read labelled images: the raw files of a data set, and folders of files that people drop."""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks.modalities.image import archive, cutouts, formats, idx

IDX_SPLITS = {"train": "train", "test": "t10k"}
LARGEST_BYTES = 4 * formats.LARGEST_PIXELS + 1_000_000
THUMBNAIL = 96  # pixels of the longer side
Channel = Annotated[float, Field(ge=0, le=255)]


class Normalisation(BaseModel):
    """Mean and standard deviation per channel, 0..255 scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: list[Channel]
    std: list[Annotated[float, Field(gt=0, le=255)]]


class Input(BaseModel):
    """What the network is fed: square images; `measured` takes mean and deviation from the training images.

    `files` says how samples are named in a data set that comes as tar: `*/{split}/{class}/*.jpg`. With `backgrounds` a
    picture with transparent parts is put on drawn ones, that many for training, one elsewhere; else transparency is
    dropped, as the server does. Training images are stored with a shorter side of `stored_edge` pixels where they are
    larger; `stored_as` pixels they need no decoding in every epoch, three bytes a pixel of disk and page cache instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    image_size: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3]
    normalisation: Literal["measured"] | Normalisation
    files: Annotated[str, AfterValidator(archive.pattern)] | None = None
    backgrounds: Annotated[int, Field(ge=1, le=1000)] | None = None
    stored_edge: Annotated[int, Field(ge=8, le=8192)] | None = None
    stored_as: Literal["files", "pixels"] = "files"

    @model_validator(mode="after")
    def detailed(self) -> "Input":
        """Refuse to store less than the network sees."""
        if self.stored_edge and self.stored_edge < self.image_size:
            raise ValueError(f"stored_edge {self.stored_edge} is less than image_size {self.image_size}; raise it")
        return self


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


def read(raw: Path, incoming: Path, classes: list[str], input: Input) -> Iterator[Sample]:
    """Yield every sample of the data set, then every file in `incoming/<class>/`; hidden ones are passed over."""
    if input.files:
        yield from read_archives(raw, classes, input.files)
    else:
        for split, prefix in IDX_SPLITS.items():
            yield from read_idx(raw, split, prefix)
    home = incoming.resolve()
    for path in sorted(incoming.rglob("*")):
        inside = path.relative_to(incoming)
        problem = obstacle(path, home)
        if any(part.startswith(".") for part in inside.parts) or (problem is None and path.is_dir()):
            continue
        label = classes.index(path.parent.name) if path.parent.name in classes else None
        data = b"" if problem else path.read_bytes()
        yield Sample(f"incoming/{printable(inside)}", "train", data, label, problem=problem)


def obstacle(path: Path, home: Path) -> str | None:
    """Say why a path below `home` can't be read as a file, None where it can and for a folder; a pipe is not opened."""
    try:
        found = path.stat()
    except OSError as error:
        return "a link that leads nowhere" if path.is_symlink() else f"can't be read: {error.strerror}"
    if path.is_symlink() and not path.resolve().is_relative_to(home):
        return "a link that leads outside; put the file itself here"
    if stat.S_ISDIR(found.st_mode):
        if path.is_symlink():
            return "a link to a folder; put the files themselves here"
        return None if os.access(path, os.R_OK | os.X_OK) else "a folder that may not be opened"
    if not stat.S_ISREG(found.st_mode):
        return "no file but a pipe, a socket or a device"
    if found.st_size > LARGEST_BYTES:
        return f"{found.st_size:,} bytes, more than any image that may be used ({LARGEST_BYTES:,})"
    return None if os.access(path, os.R_OK) else "may not be read; change its permissions"


def printable(path: Path) -> str:
    """Return a path in characters that can be printed and stored; the others as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_archives(raw: Path, classes: list[str], files: str) -> Iterator[Sample]:
    """Yield the files of the data set's tars that are named as `files` says, of a class; they stay packed."""
    for found in archive.members(raw, files, classes):
        problem = None if found.split else f"its folder is no split; there are: {', '.join(archive.SPLITS)}"
        if found.size > LARGEST_BYTES:
            problem = f"{found.size:,} bytes, more than any image that may be used ({LARGEST_BYTES:,})"
        data = b"" if problem else found.read()
        yield Sample(printable(Path(found.name)), found.split or "train", data, found.label, problem=problem)


def read_idx(raw: Path, split: str, prefix: str) -> Iterator[Sample]:
    """Yield the images of an MNIST-style pair of idx files, each encoded as PNG (lossless)."""
    for i, (pixels, label) in enumerate(idx.read(raw, prefix)):
        yield Sample(f"{prefix}/{i:05d}", split, idx.encode(pixels), label, pixels)


def decode(data: bytes, input: Input) -> Any:
    """Decode one file fully, to the pixels that DALI makes of it; `ValueError` says why it can't be used."""
    return formats.decode(held_out(data, input), input.channels)


def held_out(data: bytes, input: Input) -> bytes:
    """Return what is kept of a file that judges or calibrates: itself, or a cut-out on a background."""
    return (cutouts.composites(data, input.image_size, 1) or [data])[0] if input.backgrounds else data


def training(data: bytes, input: Input) -> list[bytes]:
    """Return what is kept of a file that trains: itself, smaller where it is larger than need be, or composites."""
    found = cutouts.composites(data, input.image_size, input.backgrounds) if input.backgrounds else []
    return [stored(each, input) for each in found or [data]]


def stored(data: bytes, input: Input) -> bytes:
    """Return a picture as training images are stored: with their shorter side, as pixels; else as it is."""
    from PIL import Image

    as_pixels, edge = input.stored_as == "pixels", input.stored_edge
    if not (as_pixels or edge):
        return data
    pixels = formats.decode(data, input.channels)
    image, share = Image.fromarray(pixels), edge / min(pixels.shape[:2]) if edge else 1
    if share < 1:
        size = [round(share * length) for length in pixels.shape[1::-1]]
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return cutouts.encode(image, as_pixels) if as_pixels or share < 1 else data


def picture(data: bytes, input: Input) -> Any:
    """Return a file in small, used or rejected, uint8 HW or HWC; None where it can't be shown cheaply."""
    with contextlib.suppress(ValueError):
        data = held_out(data, input)
    return formats.picture(data, input.channels, THUMBNAIL)
