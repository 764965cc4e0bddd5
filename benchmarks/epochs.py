"""An epoch of a small network on fashion's images, by Lightning with our callbacks or a bare loop, in some processes.

    python benchmarks/epochs.py TIMES PROCESSES CORES

Prints, as JSON, what an epoch on TIMES the first 10,000 images took. benchmarks/training.py calls it, a size at a time.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks import precision, ranks, siblings  # noqa: E402
from tasks.ranks import Place  # noqa: E402

PRECISION: Any = precision.asked("auto", "cpu")
BASE = 10_000  # images
KNOBS = {"learning_rate": 0.1, "weight_decay": 5e-4, "label_smoothing": 0.1, "schedule_epochs": 2}
KNOBS |= {"pretrained": None, "seed": 1}
ALONE = Place(0, 1, 0, 1)


def epoch(prepare: Path, bare: bool, place: Place = ALONE) -> float:
    """Train a small network for an epoch on a folder's shards; return the seconds of its steps."""
    import pytorch_lightning as pl
    import torch

    from tasks import fit, networks
    from tasks.health import Health
    from tasks.learner import Learner, channels_last
    from tasks.problems.classification import data, loss
    from tasks.stall import Stall

    spec = json.loads((prepare / "spec.json").read_text())
    flips = {"flip": {"probability": 0.5}}
    batches = data.loader(prepare, "train", spec, 128 // place.ranks, flips, seed=1, **fit.share(place))
    network = networks.build(spec, {"name": "small", "width": 64}).to(memory_format=torch.channels_last)
    learner = Learner(network, loss, KNOBS, steps_per_epoch=len(batches))
    if bare:
        setup = learner.configure_optimizers()
        optimizer, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
        begun = time.perf_counter()
        for x, y in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION != "32-true"):
                value = loss.loss(network(channels_last(x)), y, 0.1)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
        return time.perf_counter() - begun
    learner.health = health = Health(torch.zeros(8, *spec["shape"]))
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
    clock = Clock()
    trainer = pl.Trainer(
        precision=PRECISION,
        max_epochs=1,
        callbacks=[health, Stall(batches), clock.callback()],
        **quiet,
        **fit.distribution(place, rests=False),
    )
    trainer.fit(learner, batches)
    return clock.ended - clock.begun


class Clock:
    """When an epoch's steps began and ended."""

    def __init__(self) -> None:
        self.begun = self.ended = 0.0

    def callback(self) -> Any:
        """Return the callback that reads it."""
        import pytorch_lightning as pl

        clock = self

        class Reader(pl.Callback):
            def on_train_epoch_start(self, *_: Any) -> None:
                clock.begun = time.perf_counter()

            def on_train_batch_end(self, *_: Any) -> None:
                clock.ended = time.perf_counter()

        return Reader()


def apart(times: int, processes: int, cores: int) -> dict[str, Any]:
    """Train an epoch on so many times the base's images in a process of its own, which may start others."""
    line = [sys.executable, "-W", "ignore", __file__, *map(str, (times, processes, cores))]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-1500:])
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(processes, cores, row, flush=True)
    return row


def spread(place: Place, folder: Path) -> tuple[float, list[int]]:
    """Train two epochs at a process's place; return the seconds of the second and every process's peak of memory."""
    epoch(folder, bare=False, place=place)  # warm
    seconds = epoch(folder, bare=False, place=place)
    return seconds, ranks.gathered(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def grown(times: int, processes: int, cores: int) -> dict[str, Any]:
    """Train an epoch on so many times the base's images; return its seconds, the shards' size, the peaks of memory."""
    from tasks import shards

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    known = ROOT / "data/prepare/fashion"
    base = [sample for _, sample in zip(range(BASE), shards.read(known, "train"), strict=False)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards.write(folder, "train", (sample for _ in range(times) for sample in base), 10_000)
        (folder / "spec.json").write_bytes((known / "spec.json").read_bytes())
        shards_mb = round(sum(path.stat().st_size for path in folder.iterdir()) / 2**20)
        place = ranks.here(processes, 1, 128)
        with siblings.together(place, spread, (folder,)):
            seconds, peaks_mb = spread(place, folder)
    return {"samples": BASE * times, "seconds": round(seconds, 2), "shards_mb": shards_mb, "peak_mb": peaks_mb}


if __name__ == "__main__":
    print(json.dumps(grown(*map(int, sys.argv[1:]))))
