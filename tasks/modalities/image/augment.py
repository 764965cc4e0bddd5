"""Image augmentation in DALI: typed knobs, and the graph they make."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.modalities.image import preprocess

Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=-1024, le=1024)]  # degrees or pixels
Factor = Annotated[float, Field(gt=0, le=100)]


class Chance(BaseModel):
    """How large a share of the images a change touches."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    probability: Probability


class Ranged(Chance):
    """A change of random strength, uniform in `range`."""

    range: tuple[Amount, Amount]

    @model_validator(mode="after")
    def ordered(self) -> "Ranged":
        """Refuse a range that runs backwards."""
        if self.range[0] > self.range[1]:
            raise ValueError(f"range {list(self.range)} runs backwards; write the lower end first")
        return self


class Scaled(Ranged):
    """A change by a factor."""

    range: tuple[Factor, Factor]


class Augmentation(BaseModel):
    """The changes to make, in degrees, factors and pixels; one that is left out is not made."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rotation: Ranged | None = None
    scale: Scaled | None = None
    shift: Ranged | None = None
    flip: Chance | None = None
    brightness: Scaled | None = None
    contrast: Scaled | None = None

    def active(self) -> list[str]:
        """Name the changes that touch any image."""
        return [name for name, knob in self if knob is not None and knob.probability]


def augmented(encoded: Any, knobs: Augmentation, spec: dict[str, Any], device: str = "cpu") -> Any:
    """(bytes,) -> CHW float32: what preprocessing gives, changed at random; the same graph on CPU and GPU."""
    image = changed(preprocess.decode(encoded, spec, device), knobs, spec["image_size"])
    return preprocess.normalise(image, spec, mirror(knobs))  # flips for free


def changed(image: Any, knobs: Augmentation, size: int) -> Any:
    """HWC uint8 -> HWC uint8, all changes but the flip; those that touch no image cost nothing."""
    from nvidia.dali import fn, types

    active, centre = knobs.active(), [size / 2, size / 2]
    warps = []
    if "rotation" in active:
        warps.append(fn.transforms.rotation(angle=drawn(knobs.rotation, neutral=0.0), center=centre))
    if "scale" in active:
        factor = drawn(knobs.scale, neutral=1.0)
        warps.append(fn.transforms.scale(scale=fn.stack(factor, factor), center=centre))
    if "shift" in active:
        offset = fn.stack(drawn(knobs.shift, neutral=0.0), drawn(knobs.shift, neutral=0.0))
        warps.append(fn.transforms.translation(offset=offset))
    if warps:
        matrix = fn.transforms.combine(*warps) if len(warps) > 1 else warps[0]
        image = fn.warp_affine(image, matrix=matrix, fill_value=0, interp_type=types.INTERP_LINEAR, inverse_map=False)
    if "brightness" in active:
        image = fn.brightness_contrast(image, brightness=drawn(knobs.brightness, neutral=1.0))
    if "contrast" in active:
        image = fn.brightness_contrast(image, contrast=drawn(knobs.contrast, neutral=1.0))
    return image


def mirror(knobs: Augmentation) -> Any:
    """Return 1 for the images to flip left-right."""
    from nvidia.dali import fn

    return fn.random.coin_flip(probability=knobs.flip.probability) if knobs.flip and knobs.flip.probability else 0


def drawn(knob: Ranged | None, neutral: float) -> Any:
    """Draw the strength per image: `neutral` for those left alone."""
    from nvidia.dali import fn, types

    assert knob is not None
    chosen = fn.cast(fn.random.coin_flip(probability=knob.probability), dtype=types.FLOAT)
    return neutral + chosen * (fn.random.uniform(range=list(knob.range)) - neutral)


def variants(
    images: list[bytes], knobs: Augmentation, spec: dict[str, Any], copies: int, seed: int = 0
) -> list[list[Any]]:
    """Return for each encoded image itself and `copies` variants, HWC uint8, as training would see them."""
    import numpy as np
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        batch_size=len(images),
        num_threads=1,
        device_id=None,
        seed=0,
        prefetch_queue_depth=1,
        exec_pipelined=False,
        exec_async=False,
    )
    with pipeline:
        encoded = fn.external_source(name="image", dtype=types.UINT8, ndim=1)
        plain = preprocess.decode(encoded, spec)
        variant = fn.flip(changed(plain, knobs, spec["image_size"]), horizontal=mirror(knobs))
        pipeline.set_outputs(plain, variant)
    pipeline.build()
    rows: list[list[Any]] = [[] for _ in images]
    for i in range(copies):
        pipeline.feed_input("image", [np.frombuffer(data, np.uint8) for data in images])
        originals, changes = (np.array(output.as_array()) for output in pipeline.run())
        for row, original, variant in zip(rows, originals, changes, strict=True):
            row.extend([original, variant] if i == 0 else [variant])
    return rows
