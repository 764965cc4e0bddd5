"""The Lightning side of training: one module, and the callback that keeps the best weights and stops at the target."""

import csv
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tasks.interval import wilson

WARM_UP = 0.2  # share of the cycle that the learning rate climbs
START = 0.1  # share of the peak where it begins
FLOOR = 0.02  # share of the peak where it rests after the cycle
MOMENTUM = 0.9
PROGRESS_S = 5.0


class Learner(pl.LightningModule):
    """Trains a network with SGD on one learning-rate cycle and counts right answers on validation."""

    def __init__(self, network: nn.Module, problem: ModuleType, knobs: dict[str, Any], cycle_steps: int) -> None:
        super().__init__()
        self.network, self.problem, self.knobs, self.cycle_steps = network, problem, knobs, cycle_steps
        self.losses: list[Tensor] = []
        self.samples = 0
        self.validation = {"correct": 0, "n": 0, "loss": 0.0}

    def on_train_epoch_start(self) -> None:
        """Start counting."""
        self.losses, self.samples = [], 0

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Return the loss of one batch."""
        x, y = batch
        value: Tensor = self.problem.loss(self.network(channels_last(x)), y, self.knobs["label_smoothing"])
        self.losses.append(value.detach())
        self.samples += len(y)
        return value

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self.validation = {"correct": 0, "n": 0, "loss": 0.0}

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count what is right."""
        x, y = batch
        output = self.network(channels_last(x))
        self.validation["correct"] += self.problem.correct(output, y)
        self.validation["n"] += len(y)
        self.validation["loss"] += float(self.problem.loss(output, y)) * len(y)

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov momentum; no weight decay on biases and norms."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        free = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.knobs["weight_decay"]},
            {"params": free, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, lr=self.knobs["learning_rate"], momentum=MOMENTUM, nesterov=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cycle(step, self.cycle_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def channels_last(x: Tensor) -> Tensor:
    """Lay the batch out as the convolutions want it."""
    return x.to(memory_format=torch.channels_last)


def cycle(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: linear up, linear down to the floor, then rest there."""
    peak = max(1, int(WARM_UP * steps))
    if step < peak:
        return START + (1 - START) * step / peak
    return max(FLOOR, 1 - (1 - FLOOR) * (step - peak) / max(1, steps - peak))


class StopAtTarget(pl.Callback):
    """After each epoch: a row of curves.csv, the best weights kept, and a stop once the interval clears the target."""

    def __init__(self, folder: Path, target: float) -> None:
        self.folder, self.target = folder, target
        self.started, self.shown = time.monotonic(), 0.0
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.seconds_to_target: float | None = None

    def on_train_start(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Start the clock: imports and data set-up are not training."""
        self.started = self.shown = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, learner: Any, outputs: Any, batch: Any, index: int) -> None:
        """Say where we are, every few seconds."""
        if time.monotonic() - self.shown >= PROGRESS_S:
            self.shown = time.monotonic()
            done = 100 * (index + 1) // trainer.num_training_batches
            print(f"epoch {trainer.current_epoch + 1} of at most {trainer.max_epochs}, {done} %", flush=True)

    def on_validation_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Judge the epoch."""
        count = learner.validation
        low, high = wilson(count["correct"], count["n"])
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "seconds": round(time.monotonic() - self.started, 2),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "samples": learner.samples,
            "train_loss": float(torch.stack(learner.losses).float().mean()),
            "validation_loss": count["loss"] / count["n"],
            "validation": count["correct"] / count["n"],
            "low": low,
            "high": high,
        }
        self.write(row)
        if not self.best or row["validation"] > self.best["validation"]:
            self.best = row
            save(learner.network, self.folder / "weights.safetensors")
        print(f"epoch {row['epoch']}: validation {row['validation']:.4f} ({low:.4f} to {high:.4f})", flush=True)
        self.shown = time.monotonic()
        if low >= self.target:
            self.seconds_to_target = row["seconds"]
            trainer.should_stop = True

    def write(self, row: dict[str, float]) -> None:
        """Append a row to the CSV that MLflow mirrors while training runs."""
        with (self.folder / "curves.csv").open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if not self.rows:
                writer.writeheader()
            writer.writerow({name: round(value, 6) for name, value in row.items()})
        self.rows.append(row)


def save(network: nn.Module, path: Path) -> None:
    """Write the weights as safetensors (contiguous, no pickle)."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, path)
