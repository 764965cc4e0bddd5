"""A picture's EXIF blocks where DALI looks for them, and how it turns the picture for them.

Two such blocks make DALI 2.4 write past the end of its memory, so what it would find must be known beforehand.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

ORIENTATION = 274
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8}  # in bytes, of the types of EXIF's values
PNG_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}


class Damaged(ValueError):
    """A file whose structure is broken, with a sentence for people."""


def blocks(image: Any, data: bytes) -> Iterator[bytes]:
    """Yield the EXIF blocks where DALI looks for them, walking all of a JPEG's and a PNG's structure on the way."""
    if image.format in {"JPEG", "MPO"}:
        yield from (body[6:] for kind, body in segments(data) if kind == 0xE1 and body.startswith(b"Exif\0\0"))
    elif image.format == "PNG":
        found = list(chunks(data))
        if image.mode == "P" and b"PLTE" not in dict(found):
            raise Damaged("can't be decoded: the PNG lacks its palette")
        yield from (body for kind, body in found if kind == b"eXIf")
    elif "exif" in image.info:
        yield image.info["exif"]


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, body) of a JPEG up to its pixels; Pillow skips garbage between them, DALI doesn't."""
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # may be filled up
            at += 1
        marker, length = struct.unpack_from(">xBH", data, at)
        if data[at] != 0xFF or marker < 0xC0:
            raise Damaged(f"can't be decoded: the JPEG is damaged at byte {at}")
        if marker == 0xDA:
            return
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, body) of a whole PNG, its end included; Pillow checks no checksum behind the pixels, DALI does."""
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if struct.unpack_from(">I", data, at + 8 + length)[0] != zlib.crc32(kind + body):
            raise Damaged(f"can't be decoded: the PNG is damaged at byte {at}")
        if kind[:1].isupper() and kind not in PNG_CRITICAL:
            raise Damaged(f"can't be decoded: a PNG with a part that no standard knows ({kind!r})")
        yield kind, body
        at += 12 + length


def turn(block: bytes) -> int:
    """Return how an EXIF block turns the picture, 1 (not at all) to 8, as DALI reads it: by tag, whatever its type."""
    order, found = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4]), 1
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", block, 4)
        for place in range(at + 2, at + 2 + 12 * struct.unpack_from(f"{order}H", block, at)[0], 12):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", block, place)
            if tag == ORIENTATION:
                found = int(value)
            elif count * SIZES.get(kind, 1) > 4:
                (far,) = struct.unpack_from(f"{order}I", block, place + 8)
                if far + count * SIZES.get(kind, 1) > len(block):
                    return 1  # DALI drops the whole block
    except struct.error:  # it ends before: likewise
        return 1
    return found if found in range(1, 9) else 1
