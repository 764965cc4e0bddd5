"""What the server refuses: the very pictures that `prepare` does, for the same reasons.

`package` copies this file and those it names, below `tasks` as they are here.
"""

from typing import Any

from tasks.modalities.image import formats

FOLDER = "modalities/image"
FILES = (
    *(f"{folder}__init__.py" for folder in ("", "modalities/", f"{FOLDER}/")),
    *(f"{FOLDER}/{name}.py" for name in ("check", "exif", "formats")),
)


def check(encoded: bytes, spec: dict[str, Any]) -> None:
    """Raise `ValueError` where a picture is of no use; its header is judged before any pixel is decoded."""
    formats.decode(encoded, spec["channels"])
