"""fetch, prepare, augment and the training batches, on a drawn data set."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import packing, shards
from tasks.augment import augment
from tasks.fetch import Sources, fetch
from tasks.prepare import prepare
from tests import miniature, toys

CLASSES = miniature.CLASSES
NOWHERE = Sources(https="https://127.0.0.1:9", debian="none")
KNOBS = toys.PREPARE
STILL = {
    "rotation": {"range": [-5, 5], "probability": 0},
    "scale": {"range": [0.9, 1.1], "probability": 0},
    "shift": {"range": [-2, 2], "probability": 0},
    "flip": {"probability": 0},
    "brightness": {"range": [0.8, 1.2], "probability": 0},
    "contrast": {"range": [0.8, 1.2], "probability": 0},
}
WORKLOAD = "image/classification"


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "raw"
    miniature.dataset(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(raw: Path) -> Path:
    """Prepare once, with files dropped by hand: good, a copy of a test image, a wrong folder, text as PNG, hidden."""
    incoming = raw.parent / "incoming"
    pixels = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes(), np.uint8)[16:].reshape(-1, 28, 28)
    files = {
        "disc/new.png": png(np.arange(784, dtype=np.int64).reshape(28, 28).astype(np.uint8)),
        "disc/copy.png": png(pixels[0]),
        "hat/other.png": png(pixels[1]),
        "box/text.png": b"no picture",
        "box/.hidden": b"",
    }
    for name, content in files.items():
        (incoming / name).parent.mkdir(parents=True, exist_ok=True)
        (incoming / name).write_bytes(content)
    out = raw.parent / "prepare"
    prepare(WORKLOAD, raw, incoming, out, **KNOBS)
    return out


def contents(folder: Path, split: str) -> list[bytes]:
    return [np.asarray(Image.open(io.BytesIO(data))).tobytes() for data, _ in shards.read(folder, split)]


def test_every_file_is_used_or_rejected_with_a_reason(prepared: Path) -> None:
    report = json.loads((prepared / "report.json").read_text())
    assert report["seen"] == 2004 == sum(report["used"].values()) + report["rejected"]
    reasons = {entry["name"]: entry["reason"] for entry in report["reasons"]}
    assert reasons["incoming/disc/copy.png"] == "same content as t10k/00000"
    assert "no class" in reasons["incoming/hat/other.png"]
    assert "can't be decoded" in reasons["incoming/box/text.png"]
    assert len(reasons) == 3


def test_no_image_is_in_two_splits_and_dropped_files_join_training(prepared: Path) -> None:
    splits = {name: set(contents(prepared, name)) for name in ("train", "validation", "calibration", "test")}
    names = list(splits)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not splits[one] & splits[other]
    assert (len(splits["validation"]), len(splits["calibration"]), len(splits["test"])) == (300, 64, 400)
    assert np.arange(784, dtype=np.int64).astype(np.uint8).tobytes() in splits["train"]


def test_the_official_test_set_keeps_its_order(prepared: Path, raw: Path) -> None:
    labels = np.frombuffer((raw / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8)[8:]
    assert [label for _, label in shards.read(prepared, "test")] == labels.tolist()


def test_dropped_files_move_no_other_image_and_preparing_is_reproducible(prepared: Path, raw: Path) -> None:
    again = raw.parent / "again"
    (raw.parent / "nothing").mkdir()
    prepare(WORKLOAD, raw, raw.parent / "nothing", again, **KNOBS)
    for split in ("validation", "calibration", "test"):
        for path in shards.paths(again, split):
            assert path.read_bytes() == (prepared / path.name).read_bytes()
    assert set(contents(again, "train")) < set(contents(prepared, "train"))


def test_a_split_that_lacks_a_class_is_refused_with_numbers(raw: Path, tmp_path: Path) -> None:
    words = r"too few of hat \(train 0, validation 0, test 0\); 2,000 files seen = 2,000 used"
    with pytest.raises(ValueError, match=words):
        prepare(WORKLOAD, raw, tmp_path, tmp_path / "out", **KNOBS | {"classes": [*CLASSES, "hat"]})
    assert not (tmp_path / "out").exists()


def test_the_golden_batch_is_what_the_server_will_see(prepared: Path) -> None:
    from safetensors.numpy import load_file

    from tasks.modalities.image import preprocess

    spec = json.loads((prepared / "spec.json").read_text())
    with tarfile.open(prepared / "golden.tar") as tar:
        images = [tar.extractfile(member).read() for member in tar.getmembers()]  # type: ignore[union-attr]
    tensors = load_file(prepared / "golden.safetensors")
    pipeline = preprocess.serving_pipeline(spec, batch_size=3)
    one_by_one = np.concatenate([preprocess.run(pipeline, [image]) for image in images])
    assert np.array_equal(one_by_one, tensors["input"])
    assert tensors["input"].shape == (8, *spec["shape"]) == (8, 1, 28, 28)
    pixels = np.asarray(Image.open(io.BytesIO(images[0])), np.float32)
    expected = (pixels - spec["mean"][0]) / spec["std"][0]
    assert np.allclose(tensors["input"][0, 0], expected, atol=1e-5)


def batches(prepared: Path, seed: int, knobs: dict[str, Any], count: int = 3) -> list[np.ndarray]:
    from tasks.problems.classification import data

    spec = json.loads((prepared / "spec.json").read_text())
    loader = data.loader(prepared, "train", spec, 32, knobs, seed)
    return [x.numpy().copy() for x, _ in (batch for _, batch in zip(range(count), loader, strict=False))]


def test_the_seed_reaches_dali(prepared: Path) -> None:
    knobs = STILL | {"rotation": {"range": [-20, 20], "probability": 0.7}, "flip": {"probability": 0.5}}
    first, again, other = (batches(prepared, seed, knobs) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_training_of_one_batch_an_epoch_goes_on_where_it_was(prepared: Path, epochs: int) -> None:
    from tasks.problems.classification import data

    spec = json.loads((prepared / "spec.json").read_text())

    def loader() -> data.Batches:
        return data.loader(prepared, "train", spec, spec["counts"]["train"], STILL | {"flip": {"probability": 0.5}}, 1)

    def drawn(batches: data.Batches) -> list[bytes]:
        return [x.numpy().tobytes() for x, _ in batches]

    whole, begun, resumed = loader(), loader(), loader()
    expected = [drawn(whole) for _ in range(epochs + 1)]
    assert [len(epoch) for epoch in expected] == [1] * (epochs + 1)
    assert [drawn(begun) for _ in range(epochs)] == expected[:-1]
    resumed.load_state_dict(begun.state_dict())
    assert drawn(resumed) == expected[-1] != expected[0]


def test_validation_batches_hold_every_sample_once_and_equal_the_servers(prepared: Path) -> None:
    from tasks.problems.classification import data

    spec = json.loads((prepared / "spec.json").read_text())
    loader = data.loader(prepared, "validation", spec, 128)
    for _ in range(2):  # an epoch leaves nothing over for the next
        trained = [(x.numpy().copy(), y.numpy().copy()) for x, y in loader]
        assert [len(y) for _, y in trained] == [128, 128, 44]
    served = list(data.arrays(prepared, "validation", spec, 128))
    for (x, y), (also_x, also_y) in zip(trained, served, strict=True):
        assert np.array_equal(x, also_x) and np.array_equal(y, also_y)


def test_augmentation_of_probability_nought_changes_nothing(prepared: Path) -> None:
    from tasks.modalities.image import augment as module

    spec = json.loads((prepared / "spec.json").read_text())
    images = [data for data, _ in list(shards.read(prepared, "train"))[:4]]
    for still, row in ((True, STILL), (False, STILL | {"brightness": {"range": [0.3, 0.5], "probability": 1}})):
        for original, *changed in module.variants(images, module.Augmentation(**row), spec, copies=3):
            assert all(np.array_equal(original, variant) for variant in changed) is still


def test_augment_leaves_its_knobs_and_a_strip(prepared: Path, tmp_path: Path) -> None:
    from tasks.modalities.image.augment import Augmentation

    augment(WORKLOAD, prepared, tmp_path / "out", augmentation=Augmentation.model_validate(STILL))
    assert json.loads((tmp_path / "out/augment.json").read_text())["rotation"]["range"] == [-5, 5]
    assert Image.open(tmp_path / "out/strip.png").width > 400


def test_fetch_takes_plain_or_gzipped_files_from_the_mirror(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(raw, mirror)
    name = "t10k-labels-idx1-ubyte"
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in raw.iterdir()}
    (mirror / f"{name}.gz").write_bytes(gzip.compress((mirror / name).read_bytes()))
    (mirror / name).unlink()
    monkeypatch.setenv("ENGINEWORKS_MIRROR", str(mirror))
    fetch(tmp_path / "out", sources=NOWHERE, files=files)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(files)


def test_without_a_mirror_the_address_is_asked(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in raw.iterdir()}
    for name in files:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes(), 1))
    monkeypatch.delenv("ENGINEWORKS_MIRROR", raising=False)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = Sources.model_construct(https=f"http://127.0.0.1:{server.server_port}")
        fetch(tmp_path / "out", sources=here, files=files)
        server.shutdown()
    assert all((tmp_path / "out" / name).read_bytes() == (raw / name).read_bytes() for name in files)


def test_a_damaged_gzip_in_the_mirror_is_a_reason_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file.gz").write_bytes(gzip.compress(bytes(1000))[:-9])
    monkeypatch.setenv("ENGINEWORKS_MIRROR", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"file.gz: damaged"):
        fetch(tmp_path / "out", sources=NOWHERE, files={"file": "0" * 64})


def test_fetch_names_every_source_and_its_reason(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEWORKS_MIRROR", str(raw))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        fetch(tmp_path / "out", sources=NOWHERE, files={"t10k-labels-idx1-ubyte": "0" * 64})
    text = str(error.value)
    assert "SHA-256" in text and "address https://127.0.0.1:9" in text and "no apt-get" in text
    assert not (tmp_path / "out").exists()


def test_a_folder_is_packed_into_the_same_bytes_wherever_and_whenever_it_lies(tmp_path: Path) -> None:
    for number, folder in enumerate((tmp_path / "one", tmp_path / "other/place")):
        for name in ("cat/1.png", "cat/2.png", "dog/1.png", ".hidden/3.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(name.encode())
            os.utime(folder / name, (number, number))
        (folder / "dog/link.png").symlink_to("/etc/passwd")
        packing.pack(folder, tmp_path / f"{number}.tar")
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()
    with tarfile.open(tmp_path / "0.tar") as tar:
        assert tar.getnames() == ["cat/1.png", "cat/2.png", "dog/1.png"]


def test_a_folder_comes_by_its_sha256_and_another_content_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENGINEWORKS_MIRROR", raising=False)
    folder = tmp_path / "pictures"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat/1.png").write_bytes(b"one")
    packing.pack(folder, tmp_path / "packed.tar")
    files = {"mine.tar": hashlib.sha256((tmp_path / "packed.tar").read_bytes()).hexdigest()}
    fetch(tmp_path / "out", sources=Sources(folder=str(folder)), files=files)
    (folder / "cat/1.png").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"folder .*pictures: mine.tar: SHA-256 .* params.yaml wants"):
        fetch(tmp_path / "out", sources=Sources(folder=str(folder)), files=files)
    assert (tmp_path / "out/mine.tar").exists(), "what was there stays"


def photographs(raw: Path, splits: dict[str, int]) -> None:
    """Write a tar of coloured pictures of two classes, a note, a third folder and a split that nobody knows."""
    raw.mkdir()
    draw = np.random.default_rng(0)
    with tarfile.open(raw / "photographs.tar", "w") as tar:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        add("set-1/README", b"pictures")
        for split, count in splits.items():
            for number in range(count):
                label = ("cat", "dog")[number % 2]
                add(f"set-1/{split}/{label}/{number}.png", png(draw.integers(0, 255, (20, 24, 3)).astype(np.uint8)))
        add("set-1/train/bird/0.png", b"")
        add("set-1/spare/cat/0.png", b"")


PHOTOGRAPHS: dict[str, Any] = {
    "classes": ["cat", "dog"],
    "test": "given",
    "validation": "given",
    "calibration": 4,
    "golden": 2,
    "shard_size": 100,
}


def colour(**given: Any) -> Any:
    from tasks.modalities.image.source import Input

    return Input(image_size=16, channels=3, normalisation="measured", **given)


def test_an_archive_is_read_in_place_and_its_own_splits_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "raw", {"train": 20, "val": 6, "test": 8})
    knobs = PHOTOGRAPHS | {"input": colour(files="*/{split}/{class}/*.png")}
    prepare(WORKLOAD, tmp_path / "raw", tmp_path / "none", tmp_path / "out", **knobs)
    spec = json.loads((tmp_path / "out/spec.json").read_text())
    assert spec["counts"] == {"train": 16, "validation": 6, "calibration": 4, "test": 8}
    assert spec["shape"] == [3, 16, 16] and len(spec["mean"]) == 3
    (rejected,) = json.loads((tmp_path / "out/report.json").read_text())["reasons"]
    assert rejected == {"name": "set-1/spare/cat/0.png", "reason": "its folder is no split; there are: " + SPLITS}
    assert "2 other files of the archive are no samples" in capsys.readouterr().out


SPLITS = "train, validation, valid, val, test"


def test_a_test_set_is_dealt_where_the_data_has_none(tmp_path: Path) -> None:
    photographs(tmp_path / "raw", {"train": 40})
    knobs = PHOTOGRAPHS | {"input": colour(files="**/{class}/*"), "test": 10, "validation": 8}
    prepare(WORKLOAD, tmp_path / "raw", tmp_path / "none", tmp_path / "out", **knobs)
    counts = json.loads((tmp_path / "out/spec.json").read_text())["counts"]
    assert counts == {"train": 18, "validation": 8, "calibration": 4, "test": 10}
    assert sorted(label for _, label in shards.read(tmp_path / "out", "test")) == [0] * 5 + [1] * 5
    splits = [set(contents(tmp_path / "out", name)) for name in counts]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 40
    means = {
        name: [np.frombuffer(each, np.uint8).reshape(-1, 3).mean(0) for each in contents(tmp_path / "out", name)]
        for name in counts
    }
    tested = means.pop("test")
    trained = [each for several in means.values() for each in several]
    measured = json.loads((tmp_path / "out/spec.json").read_text())["mean"]
    assert np.allclose(measured, np.mean(trained, 0), atol=1e-3), "no test image counts"
    assert not np.allclose(measured, np.mean([*trained, *tested], 0), atol=1e-3)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_what_the_data_set_sets_apart_itself_is_never_lost(tmp_path: Path, split: str) -> None:
    photographs(tmp_path / "raw", {"train": 20, "val": 6, "test": 8})
    knobs = PHOTOGRAPHS | {"input": colour(files="*/{split}/{class}/*.png"), split: 5}
    with pytest.raises(
        ValueError, match=rf"prepare.{split}: 5 to set aside, but the data set has \d for {split} itself"
    ):
        prepare(WORKLOAD, tmp_path / "raw", tmp_path / "none", tmp_path / "out", **knobs)


def test_an_archive_without_a_sample_of_the_pattern_is_refused_with_names(tmp_path: Path) -> None:
    photographs(tmp_path / "raw", {"train": 2})
    with pytest.raises(ValueError, match=r"no file of .*raw is named \{class\}/\*.* the first are: set-1/README"):
        prepare(
            WORKLOAD,
            tmp_path / "raw",
            tmp_path / "none",
            tmp_path / "out",
            **PHOTOGRAPHS | {"input": colour(files="{class}/*")},
        )
    with pytest.raises(ValueError, match="has to say once where the class stands"):
        colour(files="*/*.png")
