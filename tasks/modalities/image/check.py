"""What the server refuses before it decodes: the pictures that `prepare` refuses by their headers, and too many pixels.

`package` copies this file and those it names, below `tasks` as they are here.
"""

from tasks.modalities.image import formats

FOLDER = "modalities/image"
FILES = (
    *(f"{folder}__init__.py" for folder in ("", "modalities/", f"{FOLDER}/")),
    *(f"{FOLDER}/{name}.py" for name in ("check", "exif", "formats")),
)
LARGEST, UNIT = formats.LARGEST_PIXELS, "pixels"  # of all the pictures of a request
REMEDY = f"more than the {LARGEST:,} that are decoded at once; send fewer or smaller ones"


def check(encoded: bytes) -> int:
    """Return the number of a picture's pixels; `ValueError` says, by its header alone, why it is of no use."""
    with formats.judged(encoded) as image:
        return int(image.width * image.height)
