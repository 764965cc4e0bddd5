"""Photographs and cut-outs: what prepare keeps of them, and every change that augmentation can make."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tasks import shards
from tasks.augment import augment
from tasks.modalities.image import augment as changes
from tasks.modalities.image import cutouts, formats, preprocess, source
from tasks.prepare import prepare

WORKLOAD = "image/classification"
PLAIN: Any = {"mean": [127.0] * 3, "std": [128.0] * 3}
SPEC = {"workload": WORKLOAD, "image_size": 48, "channels": 3, **{name: PLAIN[name] for name in ("mean", "std")}}
RANGES: dict[str, dict[str, Any]] = {
    "crop": {"area": [0.3, 0.6], "ratio": [0.75, 1.33]},
    "rotation": {"range": [20, 40], "probability": 1},
    "scale": {"range": [1.3, 1.5], "probability": 1},
    "shear": {"range": [10, 20], "probability": 1},
    "shift": {"range": [4, 8], "probability": 1},
    "flip": {"probability": 1},
    "brightness": {"range": [0.4, 0.6], "probability": 1},
    "contrast": {"range": [0.4, 0.6], "probability": 1},
    "saturation": {"range": [0.1, 0.3], "probability": 1},
    "hue": {"range": [60, 120], "probability": 1},
    "grey": {"probability": 1},
    "blur": {"range": [2, 3], "probability": 1},
    "noise": {"range": [20, 30], "probability": 1},
    "erasing": {"range": [0.3, 0.5], "probability": 1},
}


def input(**given: Any) -> source.Input:
    return source.Input(image_size=48, channels=3, normalisation=PLAIN, **given)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def cutout(seed: int = 0, size: tuple[int, int] = (60, 90)) -> bytes:
    """Draw a red disc on nothing; the colour behind what is transparent is green."""
    image = Image.new("RGBA", size, (0, 255, 0, 0))
    ImageDraw.Draw(image).ellipse((5, 5 + seed, size[0] - 5, size[1] - 20), fill=(220, 10 + seed, 10, 255))
    return encoded(image)


def photograph(seed: int = 0, size: tuple[int, int] = (80, 60)) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_a_cutout_is_put_on_drawn_backgrounds_the_same_ones_every_time() -> None:
    found = cutouts.composites(cutout(), 48, 4)
    assert found == cutouts.composites(cutout(), 48, 4) and len(set(found)) == 4
    for each in found:
        shown = pixels(each)
        assert shown.shape == (55, 55, 3)
        red = (shown[..., 0] > 180) & (shown[..., 1] < 60) & (shown[..., 2] < 60)
        assert 0.1 < red.mean() < 0.8, "the cut-out itself is there"
        assert not ((shown - [0, 255, 0]) ** 2).sum(2).min() < 100, "what is transparent is not"


def test_a_picture_without_transparency_is_no_cutout_and_one_of_nothing_is_refused() -> None:
    assert cutouts.composites(encoded(photograph()), 48, 3) == []
    assert cutouts.composites(encoded(photograph().convert("RGBA")), 48, 3) == []
    with pytest.raises(ValueError, match="wholly transparent"):
        cutouts.composites(encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 0))), 48, 1)


def test_cutouts_multiply_for_training_alone_and_every_file_is_accounted_for(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "incoming" / label).mkdir(parents=True)
        for number in range(24):
            (tmp_path / "incoming" / label / f"{number}.png").write_bytes(cutout(2 * number + (label == "dog")))
    (tmp_path / "incoming/cat/none.png").write_bytes(encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 0))))
    import tarfile

    (tmp_path / "raw").mkdir()
    with tarfile.open(tmp_path / "raw/all.tar", "w") as tar:
        tar.add(tmp_path / "incoming", "all")
    knobs: dict[str, Any] = {"classes": ["cat", "dog"], "test": 6, "validation": 10, "calibration": 4}
    knobs |= {"golden": 2, "shard_size": 10, "input": input(files="all/{class}/*.png", backgrounds=5)}
    prepare(WORKLOAD, tmp_path / "raw", tmp_path / "none", tmp_path / "out", **knobs)
    spec = json.loads((tmp_path / "out/spec.json").read_text())
    assert spec["counts"] == {"train": 28 * 5, "validation": 10, "calibration": 4, "test": 6}
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["seen"] == 49 and report["used"]["train"] == 28
    assert report["reasons"] == [{"name": "all/cat/none.png", "reason": "wholly transparent: there is nothing to see"}]
    assert len(shards.paths(tmp_path / "out", "train")) == 14
    assert sum(1 for _ in shards.read(tmp_path / "out", "train")) == 140


def test_training_images_are_stored_smaller_and_others_as_they_came() -> None:
    large, small = encoded(photograph(size=(400, 300)), "JPEG"), encoded(photograph(size=(60, 50)), "JPEG")
    knobs = input(stored_edge=64)
    assert source.held_out(large, knobs) == large and source.training(small, knobs) == [small]
    (stored,) = source.training(large, knobs)
    assert Image.open(io.BytesIO(stored)).size == (85, 64)
    plain = np.asarray(Image.open(io.BytesIO(large)).resize((85, 64), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(pixels(stored) - plain).mean() < 3
    turned = photograph(size=(400, 300))
    exif = turned.getexif()
    exif[274] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=exif)
    assert Image.open(io.BytesIO(source.training(buffer.getvalue(), knobs)[0])).size == (64, 85), "upright"
    with pytest.raises(ValueError, match="stored_edge 40 is less than image_size 48"):
        input(stored_edge=40)


@pytest.mark.parametrize("channels", [1, 3])
def test_training_images_stored_as_pixels_are_decoded_to_these_very_pixels(channels: int) -> None:
    file = encoded(photograph(size=(401, 301)), "PNG")
    knobs = {"image_size": 48, "channels": channels, "normalisation": "measured", "stored_as": "pixels"}
    whole, smaller = (source.training(file, source.Input(**knobs, stored_edge=edge))[0] for edge in (None, 64))
    shown = formats.decode(file, channels)
    assert whole[:2] == b"BM" and np.array_equal(np.asarray(Image.open(io.BytesIO(whole))), shown)
    expected = np.asarray(Image.fromarray(shown).resize((85, 64), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(np.asarray(Image.open(io.BytesIO(smaller))) - expected).max() <= 2
    spec = {"image_size": 64, "channels": channels, "mean": [0.0] * channels, "std": [1.0] * channels}
    for stored in (whole, smaller):
        seen = preprocess.run(preprocess.serving_pipeline(spec, 1), [stored])
        as_png = preprocess.run(preprocess.serving_pipeline(spec, 1), [encoded(Image.open(io.BytesIO(stored)), "PNG")])
        assert np.array_equal(seen, as_png)


def variants(knobs: dict[str, Any], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    images = [encoded(photograph(number), "JPEG") for number in range(3)]
    rows = changes.variants(images, changes.Augmentation.model_validate(knobs), SPEC, copies=3)
    return np.stack([row[0] for row in rows]).astype(int), np.stack([row[1:] for row in rows]).astype(int)


@pytest.mark.parametrize("name", RANGES)
def test_a_change_alone_changes_every_image_and_differs_from_draw_to_draw(name: str) -> None:
    original, changed = variants({name: RANGES[name]})
    assert changed.shape == (3, 3, 48, 48, 3)
    moved = np.abs(changed - original[:, None]).mean((2, 3, 4))
    assert (moved > 2).all(), f"{name} changes too little: {moved}"
    alike = np.abs(changed[:, 0] - changed[:, 1]).mean((1, 2, 3))
    assert (alike == 0).all() if name in ("flip", "grey") else (alike > 0).all()


@pytest.mark.parametrize("name", [name for name in RANGES if "range" in RANGES[name]])
def test_a_range_may_be_of_one_strength(name: str) -> None:
    strength = RANGES[name]["range"][0]
    _, changed = variants({name: {"range": [strength, strength], "probability": 1}})
    assert (changed[:, 0] == changed[:, 1]).all() == (name not in ("noise", "erasing"))


def test_what_the_changes_are() -> None:
    original, grey = variants({"grey": RANGES["grey"]})
    assert np.abs(grey - grey.mean(-1, keepdims=True)).max() <= 2
    original, erased = variants({"erasing": RANGES["erasing"]})
    covered = (erased == 127).all(-1)
    assert (covered.mean((2, 3)) > 0.05).all() and (covered.mean((2, 3)) < 0.3).all()
    assert (erased == original[:, None])[~covered].all(), "the rest is untouched"
    _, blurred = variants({"blur": RANGES["blur"]})
    assert np.abs(np.diff(blurred, axis=2)).mean() < np.abs(np.diff(original, axis=1)).mean()


@pytest.mark.parametrize("name", [name for name in RANGES if name != "crop"])
def test_of_probability_nought_nothing_is_changed(name: str) -> None:
    knobs = changes.Augmentation.model_validate({name: RANGES[name] | {"probability": 0}})
    assert knobs.active() == []
    some = changes.Augmentation.model_validate({name: RANGES[name] | {"probability": 0.5}})
    rows = changes.variants([encoded(photograph(n), "JPEG") for n in range(8)], some, SPEC, copies=16)
    still = [np.array_equal(row[0], variant) for row in rows for variant in row[1:]]
    assert 45 <= sum(still) <= 83, f"{sum(still)} of 128 left alone at probability 0.5"


def test_grey_images_have_no_colour_to_change() -> None:
    image = encoded(photograph().convert("L"))
    grey = SPEC | {"channels": 1, "mean": [127.0], "std": [128.0]}
    knobs = changes.Augmentation.model_validate({"hue": RANGES["hue"]})
    with pytest.raises(ValueError, match=r"augment\.hue: grey images have no colour"):
        changes.variants([image], knobs, grey, copies=1)


def test_each_change_has_a_strip(tmp_path: Path) -> None:
    samples = [(encoded(photograph(n), "JPEG"), n % 2) for n in range(8)]
    (tmp_path / "prepare").mkdir()
    shards.write(tmp_path / "prepare", "train", samples, 8)
    (tmp_path / "prepare/spec.json").write_text(json.dumps(SPEC | {"classes": ["one", "other"]}))
    knobs = changes.Augmentation.model_validate(RANGES | {"blur": {"range": [1, 2], "probability": 0}})
    augment(WORKLOAD, tmp_path / "prepare", tmp_path / "out", augmentation=knobs)
    strips = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert strips == {"strip", *(f"strip_{name}" for name in RANGES if name != "blur")}


@pytest.mark.parametrize(("height", "width", "channels"), [(300, 200, 3), (90, 131, 3), (224, 224, 3), (150, 97, 1)])
def test_a_crop_is_resized_as_the_server_resizes(height: int, width: int, channels: int) -> None:
    from nvidia.dali import Pipeline, fn, types

    y, x, c = np.ogrid[:height, :width, :channels]
    image = (127 + 60 * np.sin(y / 9 + c) + 60 * np.cos(x / 7)).astype(np.uint8)
    graph = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with graph:
        given = fn.external_source(name="image", dtype=types.UINT8, ndim=3, layout="HWC")
        graph.set_outputs(preprocess.resize(given, {"image_size": 112}))
    graph.feed_input("image", [image])
    (expected,) = np.array(graph.run()[0].as_array()).astype(int)
    (found,) = preprocess.resizer(112)([image])
    assert found.dtype == np.uint8 and found.shape == (112, 112, channels) and found.flags["C_CONTIGUOUS"]
    assert np.abs(found - expected).max() <= 2 and np.abs((found - expected).mean()) < 0.5, "DALI's filter is tabulated"
