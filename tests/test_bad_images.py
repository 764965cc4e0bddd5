"""Odd image files: used as the server's decoder, DALI, sees them, or rejected with a reason; nothing hangs."""

import io
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows import incoming
from tasks.modalities.image import preprocess, source
from tasks.prepare import prepare
from tests import miniature, toys
from tests.miniature import ROOT

SIZE = 40


def picture(mode: str = "RGB") -> Image.Image:
    """A picture without symmetry: a turn of it shows."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    pixels = np.stack([x * 6, y * 6, np.where(x > y, 200, 20)], 2).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return saved(picture(), "JPEG", quality=95, exif=exif)


def deep(mode: str) -> bytes:
    """A PNG of 16 bits a channel, written by hand where Pillow can't."""
    if mode == "grey":
        return saved(Image.fromarray(np.asarray(picture("L"), np.uint16) * 257), "PNG")
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.asarray(picture(), np.uint16) * 257)
    return png(SIZE, SIZE, 16, 2, zlib.compress(rows))


def png(width: int, height: int, bits: int, colour: int, data: bytes) -> bytes:
    """Put a PNG together."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def animated(kind: str) -> bytes:
    frames = [picture(), picture().rotate(90)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def transparent() -> Image.Image:
    image = picture("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.arange(SIZE, dtype=np.uint8) * 6, (SIZE, 1))))
    return image


USED: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: saved(picture(), "JPEG", quality=95),
    "grey JPEG": lambda: saved(picture("L"), "JPEG", quality=95),
    "progressive JPEG": lambda: saved(picture(), "JPEG", quality=95, progressive=True),
    **{f"JPEG turned {i}": lambda i=i: turned(i) for i in range(1, 9)},  # type: ignore[misc]
    "CMYK JPEG": lambda: saved(picture("CMYK"), "JPEG", quality=95),
    "PNG": lambda: saved(picture(), "PNG"),
    "black and white PNG": lambda: saved(picture("1"), "PNG"),
    "grey PNG": lambda: saved(picture("L"), "PNG"),
    "palette PNG": lambda: saved(picture("P"), "PNG"),
    "PNG with alpha": lambda: saved(transparent(), "PNG"),
    "grey PNG of 16 bits": lambda: deep("grey"),
    "PNG of 16 bits": lambda: deep("colour"),
    "BMP": lambda: saved(picture(), "BMP"),
    "WebP": lambda: saved(picture(), "WEBP", lossless=True),
    "PNG of a pixel": lambda: saved(picture().crop((0, 0, 1, 1)), "PNG"),
    "long PNG": lambda: saved(picture().resize((1, 5000)), "PNG"),
}
REJECTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "the file is empty"),
    "text": (lambda: b"no picture at all", "no picture, it begins with"),
    "HTML": (lambda: b"<!doctype html><html></html>", "no picture, it begins with"),
    "JPEG cut at half": (lambda: turned(1)[: len(turned(1)) // 2], "can't be decoded"),
    "PNG cut at its end": (lambda: saved(picture(), "PNG")[:-15], "can't be decoded"),
    "CMYK of unknown sense": (lambda: saved(picture("CMYK"), "JPEG").replace(b"Adobe", b"Edoba"), "CMYK"),
    "GIF": (lambda: saved(picture("P"), "GIF"), "GIF is no format .* save it as PNG or JPEG"),
    "animated GIF": (lambda: animated("GIF"), "GIF is no format"),
    "animated WebP": (lambda: animated("WEBP"), r"animated WEBP \(2 frames\)"),
    "AVIF": (lambda: saved(picture(), "AVIF"), "AVIF is no format"),
    "20,000 x 20,000": (lambda: bomb(), r"more than 64,000,000 pixels; save it smaller"),
    "a header of 65,500 x 65,500": (lambda: png(65500, 65500, 8, 2, zlib.compress(b"\0" * 9)), "64,000,000 pixels"),
    "no width": (lambda: png(0, 5, 8, 2, b""), "can't be decoded"),
}


def bomb() -> bytes:
    """A PNG of some 50 KB that unfolds to 400 MB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 20_000)
    data = b"".join(packer.compress(row) for _ in range(20_000)) + packer.flush()
    return png(20_000, 20_000, 8, 0, data)


def form(channels: int) -> source.Input:
    return source.Input(image_size=SIZE, channels=channels, normalisation="measured")  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[1, 3])
def decoders(request: pytest.FixtureRequest) -> tuple[source.Input, Any]:
    """The check and the server's own pipeline, its output brought back to pixels."""
    spec = {"image_size": SIZE, "channels": request.param, "mean": [0.0] * request.param, "std": [1.0] * request.param}
    pipeline = preprocess.serving_pipeline(spec, batch_size=1)
    return form(request.param), lambda data: preprocess.run(pipeline, [data])[0].transpose(1, 2, 0)


@pytest.mark.parametrize("kind", USED)
def test_a_file_that_is_used_is_what_the_server_sees(kind: str, decoders: tuple[source.Input, Any]) -> None:
    checked, seen = decoders
    data = USED[kind]()
    pixels = source.decode(data, checked)
    served = seen(data)
    wanted = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    difference = np.abs(np.asarray(wanted, np.float64).reshape(served.shape) - served)
    assert difference.mean() < 3, f"{kind}: {difference.mean():.1f} grey levels apart"


@pytest.mark.parametrize("kind", REJECTED)
def test_a_file_that_is_of_no_use_gets_a_reason(kind: str) -> None:
    make, words = REJECTED[kind]
    for channels in (1, 3):
        with pytest.raises(ValueError, match=words):
            source.decode(make(), form(channels))


def test_a_bomb_is_refused_from_its_header() -> None:
    """In 600 MB of address space beyond what the imports take, 400 million pixels would not fit."""
    code = (
        "import resource; from tests.test_bad_images import bomb, form; from tasks.modalities.image import source\n"
        "data = bomb(); import psutil; used = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)\n"
        "try: source.decode(data, form(3))\n"
        "except ValueError as error: print(len(data), error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "more than 64,000,000 pixels" in done.stdout, done.stderr
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "BMP"])
def test_what_the_check_accepts_of_damaged_files_the_server_decodes_alike(kind: str) -> None:
    spec = {"image_size": SIZE, "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}
    generator, whole = random.Random(7), USED[kind]()
    for _ in range(30):
        data = bytearray(whole)
        if generator.random() < 0.5:
            del data[generator.randrange(len(data)) :]
        else:
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        try:
            pixels = source.decode(bytes(data), form(3))
        except ValueError:
            continue
        served = preprocess.run(preprocess.serving_pipeline(spec, 1), [bytes(data)])[0].transpose(1, 2, 0)
        wanted = np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float64)
        assert np.abs(wanted - served).mean() < 4


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Prepare with all of this dropped into a class folder, under hostile names, and a link that leads outside."""
    root = tmp_path_factory.mktemp("odd")
    miniature.dataset(root / "raw")
    folder = root / "incoming" / "disc"
    folder.mkdir(parents=True)
    (root / "incoming" / "box").mkdir()  # empty: it must shift no label
    for i, (kind, (make, _)) in enumerate(REJECTED.items()):
        if kind != "20,000 x 20,000":
            (folder / f"{i} <script>alert('{kind[0]}')</script>.png".replace("/", "|")).write_bytes(make())
    for name, kind in {"a\nb.png": "PNG", "é" * 60 + ".jpg": "JPEG", "-rf.png": "BMP", "wrong.gif": "grey PNG"}.items():
        (folder / name).write_bytes(USED[kind]())
    (folder / "again.png").write_bytes(USED["PNG"]())
    (folder / "outside.png").symlink_to("/etc/hostname")
    prepare(toys.WORKLOAD, root / "raw", root / "incoming", root / "out", **toys.PREPARE)
    return root / "out", json.loads((root / "out/report.json").read_text())


def test_every_file_is_accounted_for(report: tuple[Path, dict[str, Any]]) -> None:
    _, content = report
    assert content["seen"] == 2000 + len(REJECTED) - 1 + 6 == sum(content["used"].values()) + content["rejected"]
    reasons = {entry["name"]: entry["reason"] for entry in content["reasons"]}
    odd = [name for name in reasons if "<script>" in name]
    assert len(odd) == len(REJECTED) - 1 and len(reasons) == content["rejected"]
    assert reasons["incoming/disc/outside.png"].startswith("a link that leads outside")
    assert any("same content as incoming/disc/a\\nb.png" in reason for reason in reasons.values())


def test_the_page_shows_thumbnails_and_runs_nobodys_script(report: tuple[Path, dict[str, Any]]) -> None:
    page = (report[0] / "report.html").read_text()
    assert page.count("<tr>") == 1 + report[1]["rejected"] and page.count("data:image/png;base64,") >= 3
    assert "<script" not in page and "&lt;script&gt;" in page


def test_too_few_good_images_are_refused_with_numbers(tmp_path: Path) -> None:
    miniature.dataset(tmp_path / "raw")
    (tmp_path / "incoming").mkdir()
    with pytest.raises(
        ValueError, match=r"1,600 good samples for validation, but prepare.validation asks for 1,700 \(2,000"
    ):
        prepare(
            toys.WORKLOAD,
            tmp_path / "raw",
            tmp_path / "incoming",
            tmp_path / "out",
            **toys.PREPARE | {"validation": 1700},
        )


def test_what_dvc_can_not_take_is_named_before_it_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC 3.67 waits for a pipe for ever, and crashes at the others."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/incoming/toy/disc"
    folder.mkdir(parents=True)
    incoming.check("toy")
    (folder / "good.png").write_bytes(b"x")
    incoming.check("toy")
    os.close(os.open(os.fsencode(folder) + b"/\xff.png", os.O_CREAT))
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("/nowhere")
    with socket.socket(socket.AF_UNIX) as made:
        monkeypatch.chdir(folder)
        made.bind("socket")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError) as error:
            incoming.check("toy")
    said = str(error.value)
    for words in (
        "\\xff.png (its name is no UTF-8)",
        "pipe (a pipe",
        "socket (a pipe, a socket",
        "dangling (a link that",
    ):
        assert words in said
    assert "good.png" not in said and said.endswith("rename or remove them")
