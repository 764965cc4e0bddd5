"""Image augmentation in DALI: typed knobs, and the graph they make."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.modalities.image import preprocess
from tasks.ranges import Chance, Crop, Part, Ranged, Scaled, Sized


class Augmentation(BaseModel):
    """The changes to make, in degrees, factors and pixels; one that is left out is not made."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    crop: Crop | None = None
    rotation: Ranged | None = None
    scale: Scaled | None = None
    shear: Ranged | None = None
    shift: Ranged | None = None
    flip: Chance | None = None
    brightness: Scaled | None = None
    contrast: Scaled | None = None
    saturation: Scaled | None = None
    hue: Ranged | None = None
    grey: Chance | None = None
    blur: Sized | None = None
    noise: Sized | None = None
    erasing: Part | None = None

    def active(self) -> list[str]:
        """Name the changes that touch any image."""
        return [name for name, knob in self if knob is not None and getattr(knob, "probability", True)]

    def alone(self, name: str) -> "Augmentation":
        """Return one change without the others, made to every image."""
        knob = getattr(self, name)
        return Augmentation(**{name: knob.model_copy(update={"probability": 1.0} if name != "crop" else {})})


def augmented(encoded: Any, knobs: Augmentation, spec: dict[str, Any], device: str = "cpu") -> Any:
    """(bytes,) -> CHW float32: what preprocessing gives, changed at random; the same graph on CPU and GPU."""
    image = changed(decoded(encoded, knobs, spec, device), knobs, spec)
    return preprocess.normalise(image, spec, mirror(knobs))  # flips for free


def decoded(encoded: Any, knobs: Augmentation, spec: dict[str, Any], device: str = "cpu") -> Any:
    """(bytes,) -> HWC uint8 as preprocessing gives it, of the whole image or a part; the rest is not decoded."""
    from nvidia.dali import fn

    crop = knobs.crop
    if crop is None:
        return preprocess.decode(encoded, spec, device)
    part = preprocess.pixels(encoded, spec, device, random_area=list(crop.area), random_aspect_ratio=list(crop.ratio))
    if device == "gpu":
        return preprocess.resize(part, spec)
    return fn.python_function(
        part, function=preprocess.resizer(spec["image_size"]), batch_processing=True, output_layouts="HWC"
    )


def changed(image: Any, knobs: Augmentation, spec: dict[str, Any]) -> Any:
    """HWC uint8 -> HWC uint8, all changes but crop and flip; those that touch no image cost nothing."""
    colours = {"saturation", "hue", "grey"} & set(knobs.active())
    if colours and spec["channels"] == 1:
        raise ValueError(f"params.yaml: augment.{min(colours)}: grey images have no colour; take it out")
    for change in (moved, coloured, blurred, noisy, erased):
        image = change(image, knobs, spec)
    return image


def moved(image: Any, knobs: Augmentation, spec: dict[str, Any]) -> Any:
    """Rotate, scale, shear and shift at once, so that pixels are mixed once."""
    from nvidia.dali import fn, types

    active, centre = knobs.active(), [spec["image_size"] / 2] * 2
    warps = []
    if "rotation" in active:
        warps.append(fn.transforms.rotation(angle=drawn(knobs.rotation, neutral=0.0), center=centre))
    if "scale" in active:
        factor = drawn(knobs.scale, neutral=1.0)
        warps.append(fn.transforms.scale(scale=fn.stack(factor, factor), center=centre))
    if "shear" in active:
        warps.append(fn.transforms.shear(angles=on_both_axes(knobs.shear), center=centre))
    if "shift" in active:
        warps.append(fn.transforms.translation(offset=on_both_axes(knobs.shift)))
    if not warps:
        return image
    matrix = fn.transforms.combine(*warps) if len(warps) > 1 else warps[0]
    return fn.warp_affine(image, matrix=matrix, fill_value=0, interp_type=types.INTERP_LINEAR, inverse_map=False)


def coloured(image: Any, knobs: Augmentation, spec: dict[str, Any]) -> Any:
    """Change light and colours, at once where there are colours."""
    from nvidia.dali import fn

    active = knobs.active()
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    changes = {name: drawn(getattr(knobs, name), value) for name, value in neutral.items() if name in active}
    if "grey" in active:
        assert knobs.grey
        kept = 1.0 - chosen(knobs.grey)
        changes["saturation"] = changes["saturation"] * kept if "saturation" in changes else kept
    if not changes:
        return image
    return fn.color_twist(image, **changes) if spec["channels"] == 3 else fn.brightness_contrast(image, **changes)


def blurred(image: Any, knobs: Augmentation, spec: dict[str, Any]) -> Any:
    """Blur; a deviation of next to nothing leaves an image as it is."""
    from nvidia.dali import fn

    return fn.gaussian_blur(image, sigma=drawn(knobs.blur, neutral=0.01)) if "blur" in knobs.active() else image


def noisy(image: Any, knobs: Augmentation, spec: dict[str, Any]) -> Any:
    """Add noise of a normal distribution to each pixel and channel."""
    from nvidia.dali import fn

    return fn.noise.gaussian(image, stddev=drawn(knobs.noise, neutral=0.0)) if "noise" in knobs.active() else image


def erased(image: Any, knobs: Augmentation, spec: dict[str, Any]) -> Any:
    """Cover a rectangle with the training images' mean."""
    from nvidia.dali import fn

    if "erasing" not in knobs.active():
        return image
    assert knobs.erasing
    touched = chosen(knobs.erasing)
    height, width = (uniform(knobs.erasing.range) * touched for _ in "HW")
    top, left = ((1.0 - side) * fn.random.uniform(range=[0.0, 1.0]) for side in (height, width))
    return fn.erase(
        image,
        anchor=fn.stack(top, left),
        shape=fn.stack(height, width),
        axis_names="HW",
        normalized=True,
        fill_value=spec["mean"],
    )


def mirror(knobs: Augmentation) -> Any:
    """Return 1 for the images to flip left-right."""
    from nvidia.dali import fn

    return fn.random.coin_flip(probability=knobs.flip.probability) if knobs.flip and knobs.flip.probability else 0


def drawn(knob: Ranged | None, neutral: float) -> Any:
    """Draw the strength per image: `neutral` for those left alone."""
    assert knob is not None
    return neutral + chosen(knob) * (uniform(knob.range) - neutral)


def on_both_axes(knob: Ranged | None) -> Any:
    """Draw a strength for each axis, of the images that are to change: one coin, or more than their share would."""
    from nvidia.dali import fn

    assert knob is not None
    return chosen(knob) * fn.stack(uniform(knob.range), uniform(knob.range))


def uniform(range: tuple[float, float]) -> Any:
    """Draw a number per image; DALI itself draws none from a range of one number."""
    from nvidia.dali import fn

    return range[0] + (range[1] - range[0]) * fn.random.uniform(range=[0.0, 1.0])


def chosen(knob: Chance) -> Any:
    """Return 1 for the images to change, else 0."""
    from nvidia.dali import fn, types

    return fn.cast(fn.random.coin_flip(probability=knob.probability), dtype=types.FLOAT)


def variants(
    images: list[bytes], knobs: Augmentation, spec: dict[str, Any], copies: int, seed: int = 0
) -> list[list[Any]]:
    """Return for each encoded image itself and `copies` variants, HWC uint8, as training would see them."""
    import numpy as np
    from nvidia.dali import Pipeline, fn, types

    options = {"prefetch_queue_depth": 1, "exec_pipelined": False, "exec_async": False}
    pipeline = Pipeline(batch_size=len(images), num_threads=1, device_id=None, seed=0, **options)
    with pipeline:
        encoded = fn.external_source(name="image", dtype=types.UINT8, ndim=1)
        plain = preprocess.decode(encoded, spec)
        variant = fn.flip(changed(decoded(encoded, knobs, spec), knobs, spec), horizontal=mirror(knobs))
        pipeline.set_outputs(plain, variant)
    pipeline.build()
    rows: list[list[Any]] = [[] for _ in images]
    for i in range(copies):
        pipeline.feed_input("image", [np.frombuffer(data, np.uint8) for data in images])
        originals, changes = (np.array(output.as_array()) for output in pipeline.run())
        for row, original, variant in zip(rows, originals, changes, strict=True):
            row.extend([original, variant] if i == 0 else [variant])
    return rows
