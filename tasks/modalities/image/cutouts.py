"""Cut-outs, pictures with transparent parts, put on drawn backgrounds: as photographs of them would look."""

import hashlib
import io
from typing import Any

from tasks.modalities.image import formats

LARGEST, SMALLEST = 0.95, 0.6  # of the canvas, the cut-out's longer side
MARGIN = 8 / 7  # of the canvas around what the network is fed, as is usual for photographs
QUALITY = 95  # of JPEG


def composites(data: bytes, image_size: int, count: int) -> list[bytes]:
    """Return `count` square JPEGs of a cut-out, each with a background and a place of its own; none of another picture.

    All is drawn from the file's own bytes, so that the same file always gives the same. `ValueError` where it can't be
    used.
    """
    import numpy as np
    from PIL import Image

    with formats.judged(data) as image:
        if not image.has_transparency_data:
            return []
        cutout = image.convert("RGBA")
    box = cutout.getchannel("A").getbbox()
    if box is None:
        raise ValueError("wholly transparent: there is nothing to see")
    if cutout.getchannel("A").getextrema()[0] == 255:
        return []
    side = round(image_size * MARGIN)
    found = []
    for number in range(count):
        generator = np.random.default_rng([*hashlib.sha256(data).digest(), number])
        canvas = background(generator, side)
        placed = cutout.crop(box)
        longest = generator.uniform(SMALLEST, LARGEST) * side
        scale = longest / max(placed.size)
        placed = placed.resize([max(1, round(scale * length)) for length in placed.size], Image.Resampling.LANCZOS)
        place = tuple(int(generator.integers(0, side - length + 1)) for length in placed.size)
        canvas.paste(placed, place, placed)
        found.append(encode(canvas))
    return found


def background(generator: Any, side: int) -> Any:
    """Draw something out of focus: shades of one dull colour that run into each other, and grain."""
    import numpy as np
    from PIL import Image

    light, colour = generator.uniform(40, 215), generator.normal(0, 20, 3)
    shape = generator.integers(2, 7, 2)
    patches = light + colour + generator.normal(0, 35, (*shape, 1)) + generator.normal(0, 12, (*shape, 3))
    patches = patches.clip(0, 255).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC), np.float32)
    grain = generator.normal(0, generator.uniform(0, 12), smooth.shape)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def encode(image: Any, as_pixels: bool = False) -> bytes:
    """Encode a Pillow image as JPEG that loses next to nothing, or as BMP."""
    buffer = io.BytesIO()
    if as_pixels:
        image.save(buffer, "BMP")
    else:
        image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()
