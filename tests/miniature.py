"""A miniature of the product: a copy of the checkout with toy knobs and a drawn data set, to run the whole path."""

import contextlib
import hashlib
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ["disc", "box", "cross", "bar"]
GIVEN: set[int] = set()  # first ports of the ranges handed out
SIZES = {"train": 1600, "t10k": 400}
# What a test run must not hand on to the copy; within `make test` make would announce folders in the output.
NO_BYTECODE = {
    "PYTHONDONTWRITEBYTECODE": "1"
}  # where files are limited: Python 3.11 keeps a bytecode file that was cut
INHERITED = ("PREFECT_", "MLFLOW_", "ENGINEWORKS_", "DVC_", "MAKE", "MFLAGS")
KNOBS: dict[str, dict[str, Any]] = {
    "prepare": {"classes": CLASSES, "validation": 300, "calibration": 64, "golden": 8, "shard_size": 500},
    "augment": {"rotation": {"range": [-5, 5], "probability": 0.5}},
    "train": {
        "target": 0.6,
        "network": {"name": "small", "width": 16},
        "batch_size": 32,
        "learning_rate": 0.1,
        "schedule_epochs": 2,
        "max_epochs": 3,
    },
    "evaluate": {"batch_size": 100},
    "quantize": {"min_calibration": 64},
    "measure": {"rounds": 5, "batches": [1, 32]},
    "select": {"max_accuracy_drop": 0.05, "max_class_drop": 0.2, "min_agreement": 0.9},
    "deploy": {"grace_s": 3},
    "monitor": {"min_samples": 60, "min_labels": 40},
}


def draw(generator: np.random.Generator, label: int) -> np.ndarray:
    """Draw one noisy 28x28 shape of a class."""
    image = Image.new("L", (28, 28), 0)
    pen = ImageDraw.Draw(image)
    x, y = (int(v) for v in generator.integers(9, 19, 2))
    r, ink = int(generator.integers(4, 9)), int(generator.integers(120, 255))
    if CLASSES[label] == "disc":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    elif CLASSES[label] == "box":
        pen.rectangle((x - r, y - r, x + r, y + r), outline=ink, width=2)
    elif CLASSES[label] == "cross":
        pen.line((x - r, y - r, x + r, y + r), fill=ink, width=2)
        pen.line((x - r, y + r, x + r, y - r), fill=ink, width=2)
    else:
        pen.rectangle((x - 2, y - r, x + 2, y + r), fill=ink)
    noise = generator.integers(0, 40, (28, 28))
    return np.clip(np.asarray(image, np.int64) + noise, 0, 255).astype(np.uint8)


def dataset(folder: Path) -> dict[str, str]:
    """Write the toy data set as idx files; return their SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for prefix, count in SIZES.items():
        labels = generator.integers(0, len(CLASSES), count).astype(np.uint8)
        images = np.stack([draw(generator, int(label)) for label in labels])
        if prefix == "t10k":
            labels[:2] = (labels[:2] + 1) % len(CLASSES)  # mislabelled: nobody scores 100 %
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def drop(folder: Path, count: int, seed: int = 1) -> None:
    """Put new labelled pictures where people put them: `folder/<class>/`."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        label = number % len(CLASSES)
        path = folder / CLASSES[label] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(generator, label)).save(path)


def copy(to: Path) -> Path:
    """Copy the checkout's files (as git lists them), with miniature knobs; return the copy."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else walk()
    for name in names:
        if (ROOT / name).is_file() and not name.startswith(("metrics/", "dvc.lock")):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    (to / ".venv").symlink_to(ROOT / ".venv")
    (to / ".state").mkdir()
    (ROOT / ".state" / "serving").mkdir(parents=True, exist_ok=True)
    (to / ".state" / "serving").symlink_to(ROOT / ".state" / "serving")
    write_params(to, dataset(to.parent / "mirror"))
    return to


def walk() -> list[str]:
    """List the files of a checkout without git."""
    skipped = (".venv", ".state", ".git", "data/", "models/", ".dvc/cache", ".dvc/tmp")
    found = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
    return [name for name in found if not name.startswith(skipped)] + ["data/incoming/fashion/.gitkeep"]


def write_params(to: Path, files: dict[str, str]) -> None:
    """Put the miniature knobs over the product's, so that a knob is still typed once."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["serving"]["observe"] |= {"sample": 1.0, "max_mb": 1}
    block = params["pipelines"]["fashion"]
    nowhere = {"https": "https://127.0.0.1:9", "debian": "no-such-package"}
    block["fetch"] = {"sources": nowhere, "files": files}
    for section, knobs in KNOBS.items():
        block[section] |= knobs
    (to / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def environment(to: Path) -> dict[str, str]:
    """Return an environment in which the copy's own code, ports and state are used."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(INHERITED)}
    names = ("PREFECT", "MLFLOW", "HTTP", "GRPC", "METRICS")
    ports = [*free_ports(len(names)), free_range()]
    (to.parent / "home").mkdir(exist_ok=True)
    return kept | {
        "HOME": str(to.parent / "home"),
        "ENGINEWORKS_MIRROR": str(to.parent / "mirror"),
        "ENGINEWORKS_MINIATURE": "1",
        "PYTHONPATH": str(to),
        "PATH": f"{to / '.venv' / 'bin'}:{kept['PATH']}",
        **{f"ENGINEWORKS_{name}_PORT": str(port) for name, port in zip((*names, "TRITON"), ports, strict=True)},
    }


def free_range(count: int = 13) -> int:
    """Return the first of several ports in a row that nobody listens on just now, below those that clients get.

    No range is given twice: the servers of two copies come up later.
    """
    for first in range(20_000, 32_000, 2 * count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            if first not in GIVEN:
                GIVEN.add(first)
                return first
    raise OSError(f"no {count} free ports in a row")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
