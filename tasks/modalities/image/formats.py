"""Which encoded pictures may be used: those that the server's decoder, DALI, gets right; the others get a reason.

Pillow stands for DALI here, because it names what it finds and fails in words. Where the two differ is in this file.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.modalities.image import exif

LARGEST_PIXELS = 64_000_000
REMEDY = "save it as PNG or JPEG"
# What DALI 2.4 decodes to the right pixels, tried kind by kind in tests/test_bad_images.py: format, then how Pillow
# says the pixels are stored (every way where none is named). Transparency is dropped, 16 bits lose the lower 8, EXIF
# turns, colour profiles do nothing.
DECODED: dict[str, set[str]] = {
    "JPEG": {"jpeg L", "jpeg RGB", "jpeg CMYK;I"},
    "MPO": {"jpeg L", "jpeg RGB"},  # a JPEG with more behind it, as phones write them: the first picture counts
    "PNG": set(),
    "WEBP": set(),
    "BMP": {"raw 1", "raw L", "raw P", "raw P;4", "raw BGR", "raw BGRX", "raw BGRA"},
    "PPM": {"raw 1;I", "raw L", "raw RGB"},
    "TIFF": {f"{codec} {mode}" for codec in ("raw", "libtiff") for mode in ("L", "L;I", "P", "RGB", "RGBA")},
}
COMPRESSION, SAMPLE_FORMAT = 259, 339  # tags of TIFF
TIFF_COMPRESSIONS = {1, 5, 8}  # none, LZW, Deflate


class Unfit(ValueError):
    """A file that must not be used, in a sentence for people; told apart from what Pillow itself raises."""


def decode(data: bytes, channels: int) -> Any:
    """Decode one file fully, to the pixels that DALI makes of it: HW (grey) or HWC (RGB) uint8.

    `ValueError` says what the file is and what to do; the header is judged before any pixel is decoded.
    """
    with judged(data) as image:
        return pixels(image, channels)


@contextmanager
def judged(data: bytes) -> Iterator[Any]:
    """Give a file as Pillow opens it, its header judged; `ValueError` says what is wrong, there or in the body."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as image:
                judge(image, data)
                yield image
        except (Unfit, exif.Damaged):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ValueError(f"more than {LARGEST_PIXELS:,} pixels; save it smaller") from None
        except UnidentifiedImageError:
            raise ValueError(f"can't be decoded: {beginning(data)}") from None
        except (struct.error, IndexError):
            raise ValueError("can't be decoded: it is cut off") from None
        except Exception as error:  # what a damaged file makes Pillow raise is no closed list
            raise ValueError(f"can't be decoded: {str(error) or type(error).__name__}") from error


def picture(data: bytes, channels: int, size: int) -> Any:
    """Return a file in small, used or rejected: at most `size` high and wide, uint8; None where that isn't cheap."""
    import numpy as np
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > LARGEST_PIXELS:
                    return None
                image.draft(None, (size, size))  # a JPEG is decoded at an eighth of its size where that will do
                small = Image.fromarray(pixels(image, channels))
                small.thumbnail((size, size))
                return np.asarray(small)
        except Exception:  # nothing to show, whatever the reason
            return None


def judge(image: Any, data: bytes) -> None:
    """Raise `Unfit` where DALI would refuse a picture or show another; reads headers only."""
    kind, stored = image.format, storage(image)
    if kind not in DECODED:
        raise Unfit(f"{kind} is no format that the server decodes reliably; {REMEDY}")
    if image.width * image.height > LARGEST_PIXELS:
        raise Unfit(f"{image.width} x {image.height} is more than {LARGEST_PIXELS:,} pixels; save it smaller")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and kind != "MPO":
        name = "TIFF of {} pages" if kind == "TIFF" else f"animated {kind} ({{}} frames)"
        raise Unfit(f"{name.format(frames)}: which one is meant? Save it alone, as PNG or JPEG")
    if DECODED[kind] and stored not in DECODED[kind]:
        raise Unfit(f"{kind} of a kind ('{stored}') that the server's decoder may get wrong; {REMEDY}")
    if image.mode == "CMYK" and "adobe" not in image.info:
        raise Unfit("a CMYK JPEG without Adobe's mark, whose colours may be meant either way; save it as RGB")
    if kind == "BMP" and image.tile[0].offset + image.tile[0].args[1] * image.height > len(data):
        raise Unfit("can't be decoded: the BMP is cut off")
    if kind == "TIFF" and not plain(image.tag_v2):
        raise Unfit(f"a TIFF with a compression or numbers that the server's decoder may get wrong; {REMEDY}")
    blocks = list(exif.blocks(image, data))
    if len(blocks) > 1:
        raise Unfit(f"{len(blocks)} EXIF blocks, with which the server's decoder can crash; {REMEDY}")
    turned = image.getexif().get(exif.ORIENTATION, 1) if kind != "TIFF" else 1
    if (turned if turned in range(1, 9) else 1) != (exif.turn(blocks[0]) if blocks else 1):
        raise Unfit("programs disagree about which way up it is (EXIF, XMP); save it again, upright")


def storage(image: Any) -> str:
    """Return how the pixels are stored, as Pillow's decoder and raw mode: 'zip RGB;16B'."""
    if not image.tile:
        return str(image.mode)
    args = image.tile[0].args
    return f"{image.tile[0].codec_name} {args[0] if isinstance(args, tuple) else args}"


def plain(tags: Any) -> bool:
    """Tell whether a TIFF's tags ask for nothing but unsigned numbers in a compression that every reader knows."""
    numbers = tags.get(SAMPLE_FORMAT, 1)
    unsigned = set(numbers if isinstance(numbers, tuple) else [numbers]) == {1}
    return unsigned and tags.get(COMPRESSION, 1) in TIFF_COMPRESSIONS


def pixels(image: Any, channels: int) -> Any:
    """Return a picture's pixels as DALI gives them: upright, without transparency, 8 bits."""
    import numpy as np
    from PIL import Image, ImageOps

    if channels == 1:
        image.draft("L", image.size)  # the grey inside a JPEG, not one computed from its colours
    ImageOps.exif_transpose(image, in_place=True)
    image.info.pop("transparency", None)
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    gamma = 0.45455 if "srgb" in image.info else image.info.get("gamma", 1)
    if channels == 1 and gamma and image.format == "PNG" and image.mode in {"P", "RGB", "RGBA"}:
        linear = (np.asarray(image.convert("RGB")) / 255) ** (1 / gamma) @ (0.299, 0.587, 0.114)
        return (255 * linear**gamma + 0.5).astype(np.uint8)  # libpng mixes light, not numbers, where the file states it
    return np.asarray(image.convert("L" if channels == 1 else "RGB"))


def beginning(data: bytes) -> str:
    """Describe a file that is no picture by its first bytes."""
    return f"no picture, it begins with {data[:16]!r}" if data else "the file is empty"
