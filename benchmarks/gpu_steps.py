"""The part `steps` of benchmarks/gpu.py: images a second of a training step in each precision, in turns."""

import math
import time
from collections import defaultdict
from statistics import median
from typing import Any

import torch

from tasks import networks

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
STEPS = {  # network: its knobs, the shape of an image, the batch, steps before the clock starts, steps timed
    "small, batch 128": ({"name": "small", "width": 64}, (1, 28, 28), 128, 10, 60),
    "small, batch 2048": ({"name": "small", "width": 64}, (1, 28, 28), 2048, 5, 30),
    "efficientnet_lite0, batch 32": ({"name": "efficientnet_lite0"}, (3, 224, 224), 32, 5, 20),
    "efficientnet_lite0, batch 256": ({"name": "efficientnet_lite0"}, (3, 224, 224), 256, 3, 10),
}
KNOBS = {"learning_rate": 0.01, "weight_decay": 0.0001, "label_smoothing": 0.1, "schedule_epochs": 1} | {
    "pretrained": None
}
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


def steps(given: Any) -> dict[str, Any]:
    """Time the training step as `train` makes it: Lightning, the learner, the watch over its health."""
    torch.manual_seed(0)
    rows = {}
    for name, (knobs, shape, batch, before, timed) in STEPS.items():
        if given.only not in name:
            continue
        batches = [
            (torch.randn(batch, *shape, device="cuda"), torch.randint(0, 10, (batch,), device="cuda")) for _ in range(8)
        ]
        rates: dict[str, list[float]] = defaultdict(list)
        losses: dict[str, float] = {}
        for _ in range(given.rounds):
            for precision in PRECISIONS:
                seconds, losses[precision] = step(knobs, shape, batches, precision, before, timed)
                rates[precision].append(batch * timed / seconds)
                print(name, precision, rates[precision][-1], losses[precision], flush=True)
        rows[name] = {
            precision: {
                "n": len(found),
                "images_per_s": round(median(found)),
                "low": round(min(found)),
                "high": round(max(found)),
                "ratio": round(median(a / b for a, b in zip(found, rates["32-true"], strict=True)), 3),
                "last_loss": round(losses[precision], 4),
            }
            for precision, found in rates.items()
        }
        print(name, rows[name], flush=True)
    method = "batches on the GPU; 32-true: convolutions in TF32, as torch does by default; ratio to 32-true, same round"
    return {"method": method, "rows": rows}


def step(
    knobs: dict[str, Any], shape: tuple[int, ...], batches: list[Any], precision: str, before: int, timed: int
) -> tuple[float, float]:
    """Return the seconds of so many steps, and the last loss."""
    import pytorch_lightning as pl

    from tasks.health import Health
    from tasks.learner import Learner
    from tasks.problems.classification import loss

    class Clock(pl.Callback):
        seconds = 0.0

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step in (before, before + timed):
                torch.cuda.synchronize()
                self.seconds = time.perf_counter() - self.seconds

    torch.manual_seed(1)
    built = networks.build({"shape": shape, "classes": list("0123456789")}, knobs)
    learner = Learner(built.to(memory_format=torch.channels_last), loss, KNOBS, steps_per_epoch=before + timed)
    clock = Clock()
    endless = [batches[i % len(batches)] for i in range(before + timed)]
    callbacks = [Health(batches[0][0][:16].cpu()), clock]
    trainer = pl.Trainer(
        precision=precision, max_steps=before + timed, callbacks=callbacks, accelerator="gpu", devices=1, **QUIET
    )
    trainer.fit(learner, torch.utils.data.DataLoader(endless, batch_size=None))
    assert math.isfinite(float(learner.loss)) and clock.seconds > 0
    return clock.seconds, float(learner.loss)
