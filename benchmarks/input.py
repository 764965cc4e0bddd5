"""How many photographs a second does each way of feeding a network decode, crop, flip and normalise?

    python benchmarks/input.py [ROUNDS] [--archive TAR]

Decode, random resized crop to 224, flip, normalise, batches of 64 as float32 tensors, on all cores: ours,
with malloc as `train` has it, from shards stored for training, as pixels (decoded beforehand) and as JPEG,
and from the files as they came; beside a torch DataLoader with Pillow, one with simplejpeg and OpenCV, and
WebDataset, each in a process of its own, in turns; and the limit, libjpeg-turbo decoding alone. The archive
holds JPEGs; without one it is the `clothing` pipeline's, once fetched. Writes benchmarks/results/input.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks.measure import machine  # noqa: E402

IMAGES = 1024  # photographs
STORED: dict[str, dict[str, Any]] = {  # what the shards hold
    "ours, stored as pixels": {"stored_edge": 256, "stored_as": "pixels"},
    "ours, stored as JPEG": {"stored_edge": 256},
    "ours, files as they came": {},
}
WORKER = ROOT / "benchmarks/apps/input_worker.py"
WAYS = (*STORED, "DataLoader + Pillow", "DataLoader + simplejpeg + OpenCV", "WebDataset + Pillow", "decoding alone")
LIMIT = WAYS[-1]


def main(rounds: int, archive: Path) -> None:
    """Measure every way, write the results and print them."""
    extra = installed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = unpack(archive, folder)
        for way in STORED:
            pack(folder, way)
        workers = {way: start(way, folder, extra) for way in WAYS}
        try:
            rates = take_turns(workers, rounds)
        finally:
            for worker in workers.values():
                worker.terminate()
    limit = median(rates[LIMIT])
    rows = [
        {"way": way, "images_per_s": round(median(found), 1), "low": round(min(found), 1), "high": round(max(found), 1)}
        | {"of_decoding_alone": round(median(a / b for a, b in zip(found, rates[LIMIT], strict=True)), 3)}
        for way, found in rates.items()
    ]
    results = {"machine": machine(os.cpu_count() or 1), "n": rounds, "images": IMAGES, "pixels_median": sizes}
    results |= {"decoding_alone_per_core": round(limit / (os.cpu_count() or 1), 1), "rows": rows}
    (ROOT / "benchmarks/results/input.json").write_text(json.dumps(results, indent=2) + "\n")
    for row in rows:
        print(f"{row['way']:<34} {row['images_per_s']:>8,.0f}/s  {row['of_decoding_alone']:.2f} of decoding alone")


def installed() -> Path:
    """Return the folder with what only the peers want, made from its lock where it is not there."""
    folder, lock = ROOT / ".state/bench/input", ROOT / "benchmarks/apps/input.lock"
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        uv = str(Path(sys.executable).with_name("uv"))
        install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target", str(folder)]
        subprocess.run([*install, "-r", str(lock)], check=True)
        stamp.write_text(lock.read_text())
    return folder


def unpack(archive: Path, folder: Path) -> int:
    """Leave the first photographs as files, and in tars as WebDataset wants them; return their median of pixels."""
    from PIL import Image

    (folder / "files").mkdir()
    pixels = []
    halves = [tarfile.open(folder / f"webdataset-{half}.tar", "w") for half in range(2)]  # noqa: SIM115
    with tarfile.open(archive) as tar, halves[0], halves[1]:
        photographs = (each for each in tar if each.isfile() and each.name.endswith((".jpg", ".jpeg")))
        for number, member in zip(range(IMAGES), photographs, strict=False):
            file = tar.extractfile(member)
            assert file
            path = folder / "files" / f"{number:05d}.jpg"
            path.write_bytes(file.read())
            halves[number % 2].add(path, path.name)
            with Image.open(path) as image:
                pixels.append(image.width * image.height)
    if len(pixels) < IMAGES:
        raise SystemExit(f"{archive}: {len(pixels)} JPEGs; the benchmark wants {IMAGES:,}")
    return int(median(pixels))


def pack(folder: Path, way: str) -> None:
    """Leave the photographs as shards, as the prepare stage would."""
    from tasks import shards
    from tasks.modalities.image import source

    known: Any = {"mean": [127, 127, 127], "std": [128, 128, 128]}
    input = source.Input(image_size=224, channels=3, normalisation=known, **STORED[way])
    (folder / way).mkdir()
    files = sorted((folder / "files").iterdir())
    samples = ((data, 0) for file in files for data in source.training(file.read_bytes(), input))
    shards.write(folder / way, "train", samples, 100_000)


def start(way: str, folder: Path, extra: Path) -> subprocess.Popen[str]:
    """Start a way in a process of its own and wait until it is warm."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{extra}", "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    worker = subprocess.Popen([sys.executable, str(WORKER), way, str(folder)], env=environment, **pipes)
    ask(worker)
    return worker


def ask(worker: subprocess.Popen[str]) -> float:
    """Have a worker walk over all photographs; return photographs a second."""
    assert worker.stdin and worker.stdout
    worker.stdin.write("go\n")
    worker.stdin.flush()
    started = time.perf_counter()
    for line in worker.stdout:
        if line.startswith("done "):
            return int(line.split()[1]) / (time.perf_counter() - started)
    raise RuntimeError(f"{worker.args}: ended early")


def take_turns(workers: dict[str, subprocess.Popen[str]], rounds: int) -> dict[str, list[float]]:
    """Return the photographs a second of each way, round by round."""
    rates: dict[str, list[float]] = {way: [] for way in workers}
    for turn in range(rounds):
        for way, worker in workers.items():
            rates[way].append(ask(worker))
        print(f"round {turn + 1} of {rounds}", flush=True)
    return rates


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=7)
    parser.add_argument("--archive", type=Path)
    given = parser.parse_args()
    known_archives = sorted((ROOT / "data/fetch/clothing").glob("*.tar"))
    if given.archive is None and not known_archives:
        raise SystemExit("no photographs: run `engineworks add clothing` and its fetch stage, or name an --archive")
    main(given.rounds, given.archive or known_archives[0])
