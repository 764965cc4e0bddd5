"""Input on an NVIDIA GPU: DALI's operators there, against the same graph on the CPU."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import container, gpu
from tasks.modalities.image import augment as changes
from tests import toys
from tests.test_gpu import Record

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu.missing() is not None, reason=f"{gpu.missing()}")]

SPEC: dict[str, Any] = {"workload": toys.WORKLOAD, "image_size": 64, "classes": ["one", "other"]}
KNOWN: dict[str, Any] = {
    "rotation": {"range": [30, 30], "probability": 1},
    "scale": {"range": [1.4, 1.4], "probability": 1},
    "shear": {"range": [15, 15], "probability": 1},
    "shift": {"range": [6, 6], "probability": 1},
    "flip": {"probability": 1},
    "brightness": {"range": [0.5, 0.5], "probability": 1},
    "contrast": {"range": [0.5, 0.5], "probability": 1},
    "saturation": {"range": [0.2, 0.2], "probability": 1},
    "hue": {"range": [90, 90], "probability": 1},
    "grey": {"probability": 1},
    "blur": {"range": [2.5, 2.5], "probability": 1},
}
COLOURS = {"saturation", "hue", "grey"}
CASES = [(name, channels) for name in KNOWN for channels in (3, 1) if channels == 3 or name not in COLOURS]


def spec(channels: int) -> dict[str, Any]:
    """Return facts by which outputs are levels of 0 to 255, less 127."""
    return SPEC | {"channels": channels, "mean": [127.0] * channels, "std": [1.0] * channels}


def picture(seed: int = 0, size: int = 64) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(patches).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG") -> Any:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def changed(images: list[Any], knobs: dict[str, Any], device: str, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return the images as training sees them on a device: [n, channels, 64, 64]."""
    from nvidia.dali import Pipeline, fn, types

    graph = Pipeline(
        batch_size=len(images), num_threads=2, device_id=0 if device == "gpu" else None, seed=seed, exec_dynamic=True
    )
    with graph:
        given = fn.external_source(source=lambda: images, dtype=types.UINT8, ndim=1)
        graph.set_outputs(changes.augmented(given, changes.Augmentation(**knobs), spec(channels), device))
    graph.build()
    return host(graph.run()[0])


def host(output: Any) -> np.ndarray:
    """Return a batch of DALI's as numpy, wherever it is."""
    return np.array((output.as_cpu() if hasattr(output, "as_cpu") else output).as_array())


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_a_change_of_known_strength_is_the_same_on_the_gpu(record_property: Record, name: str, channels: int) -> None:
    images = [encoded(picture(number)) for number in range(8)]
    plain, cpu = (changed(images, knobs, "cpu", channels) for knobs in ({}, {name: KNOWN[name]}))
    apart = np.abs(changed(images, {name: KNOWN[name]}, "gpu", channels) - cpu)
    record_property("levels", {"mean": float(apart.mean()), "p99": float(np.percentile(apart, 99))})
    assert np.abs(cpu - plain).mean() > 2 and apart.mean() < 0.5 and np.percentile(apart, 99) <= 2


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_noise_is_as_strong_as_the_knob_says(record_property: Record, device: str) -> None:
    grey = [encoded(Image.new("RGB", (64, 64), (127, 127, 127)))] * 8
    noise = changed(grey, {"noise": {"range": [20, 20], "probability": 1}}, device)
    record_property("noise", {"mean": float(noise.mean()), "deviation": float(noise.std())})
    assert abs(noise.mean()) < 1 and noise.std() == pytest.approx(20, rel=0.03)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_erasing_covers_a_part_with_the_mean_and_leaves_the_rest(record_property: Record, device: str) -> None:
    images = [encoded(Image.new("RGB", (64, 64), (10 + number, 20, 200))) for number in range(8)]
    plain = changed(images, {}, device)
    found = changed(images, {"erasing": {"range": [0.4, 0.4], "probability": 1}}, device)
    covered = (found == 0).all(1)
    shares = covered.mean((1, 2))
    record_property("covered", [float(share) for share in shares])
    assert shares == pytest.approx(0.16, abs=0.02) and len({row.tobytes() for row in covered}) > 4
    assert (found == plain).all(1)[~covered].all()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_crop_has_the_size_the_knob_says(record_property: Record, device: str, kind: str) -> None:
    ramps = np.zeros((256, 256, 3), np.uint8)
    ramps[..., 0], ramps[..., 1] = np.arange(256), np.arange(256)[:, None]
    found = changed(
        [encoded(Image.fromarray(ramps), kind)] * 16, {"crop": {"area": [0.5, 0.5], "ratio": [1, 1]}}, device
    )
    width, height = (np.ptp(found[:, axis], axis=(1, 2)) / 256 for axis in (0, 1))
    record_property("sides", {"width": float(width.mean()), "height": float(height.mean())})
    assert width == pytest.approx(0.5**0.5, abs=0.05) and height == pytest.approx(0.5**0.5, abs=0.05)
    assert np.ptp(found[:, 0].min((1, 2))) > 20, "the part differs from image to image"


def test_a_change_of_half_the_images_touches_about_half_of_them(record_property: Record) -> None:
    images = [encoded(picture(number)) for number in range(64)]
    plain = changed(images, {}, "gpu")
    for name in [name for name in KNOWN if name not in COLOURS]:
        some = changed(images, {name: KNOWN[name] | {"probability": 0.5}}, "gpu")
        touched = int((np.abs(some - plain).mean((1, 2, 3)) > 0.5).sum())
        record_property(name, touched)
        assert 20 <= touched <= 44, f"{name}: {touched} of 64"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.prepared(tmp_path_factory.mktemp("input"))


def batches(data: Path, split: str, device: str, augmentation: dict[str, Any] | None = None) -> Any:
    import json

    from tasks.problems.classification.data import loader

    known = json.loads((data / "prepare/spec.json").read_text())
    return loader(data / "prepare", split, known, 100, augmentation, device=device)


def test_batches_on_the_gpu_are_those_of_the_cpu(data: Path, record_property: Record) -> None:
    """Validation's in order and of all samples, training's shuffled alike."""
    import torch

    for split, augmentation in (("validation", None), ("train", {})):
        found = {device: list(batches(data, split, device, augmentation)) for device in ("cpu", "gpu")}
        assert found["gpu"][0][0].is_cuda and len(found["gpu"]) == len(found["cpu"])
        x, y = ({device: torch.cat([pair[i].cpu() for pair in found[device]]) for device in found} for i in (0, 1))
        assert torch.equal(y["cpu"], y["gpu"])
        record_property(split, float((x["cpu"] - x["gpu"]).abs().max()))
        assert torch.allclose(x["cpu"], x["gpu"], atol=0.02)


def test_a_batch_stays_as_it_is_while_the_gpu_is_behind(data: Path) -> None:
    """The tensors are DALI's own memory: it may not be used again before what was queued on it has run."""
    import torch

    def sums(behind: bool) -> Any:
        found = []
        for _ in range(3):
            for x, _ in batches(data, "train", "gpu", {"flip": {"probability": 0.5}}):
                if behind:
                    torch.cuda._sleep(30_000_000)  # cycles: about 15 ms, longer than DALI takes for a batch
                found.append(x.double().sum((1, 2, 3)))
                del x
                if not behind:
                    torch.cuda.synchronize()
        return torch.stack(found).cpu()

    assert torch.equal(sums(behind=False), sums(behind=True))


def test_batches_on_the_gpu_go_on_where_they_were(data: Path) -> None:
    import torch

    augmentation = {"flip": {"probability": 0.5}, "rotation": {"range": [-9, 9], "probability": 0.5}}
    whole = batches(data, "train", "gpu", augmentation)
    expected = [[x.clone() for x, _ in whole] for _ in range(2)]
    first = batches(data, "train", "gpu", augmentation)
    for number, _ in enumerate(first):
        if number == 4:
            state = first.state_dict()
            break
    second = batches(data, "train", "gpu", augmentation)
    second.load_state_dict(state)
    found = [[x.clone() for x, _ in second] for _ in range(2)]
    assert len(found[0]) == len(expected[0]) - 5
    for mine, theirs in zip([*found[0], *found[1]], [*expected[0][5:], *expected[1]], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_servers_graph_for_the_gpu_is_written_and_read_back(record_property: Record, kind: str) -> None:
    """As Triton's DALI backend reads it, beside the CPU's; photographs larger than the network's input."""
    from nvidia.dali import Pipeline

    images = [encoded(picture(number, 200), kind) for number in range(8)]
    found = {}
    for device in ("cpu", "gpu"):
        written = container.serialised(spec(3), 8, 1, device)
        graph = Pipeline.deserialize(written, batch_size=8, num_threads=1, device_id=0 if device == "gpu" else None)
        graph.feed_input("image", images)
        found[device] = host(graph.run()[0])
    apart = np.abs(found["gpu"] - found["cpu"])
    record_property("levels", {"mean": float(apart.mean()), "p99": float(np.percentile(apart, 99))})
    assert found["cpu"].std() > 20 and apart.mean() < 1 and np.percentile(apart, 99) <= 4
