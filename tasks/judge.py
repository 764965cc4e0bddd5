"""The callback that follows a training: a row per epoch, the best weights, checkpoints, and the stop at the target."""

import csv
import signal
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
from torch import nn

from tasks import checkpoints, ranks
from tasks.interval import wilson

PROGRESS_S = 5.0
CHECKPOINT_S = 30.0  # what a kill may cost
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Judge(pl.Callback):
    """After each epoch: a row of curves.csv, the best weights kept, and a stop once the interval clears the target."""

    def __init__(
        self, folder: Path, target: float, confidence: float, last_epoch: int, witnesses: tuple[Any, ...] = ()
    ) -> None:
        self.folder, self.target, self.confidence, self.last_epoch = folder, target, confidence, last_epoch
        self.witnesses = witnesses  # each adds its `row()` to an epoch's
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.seconds_to_target: float | None = None
        self.resumes = 0
        self.before = 0.0  # seconds of training in earlier processes
        self.started = self.shown = self.saved = time.monotonic()
        self.asked_to_stop: str | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a kill included."""
        return self.before + time.monotonic() - self.started

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.seconds_to_target is not None or len(self.rows) == self.last_epoch

    def verdict(self) -> dict[str, Any]:
        """Return whether the target was reached, by what, and what it took."""
        last = self.rows[-1]
        return {
            "target": self.target,
            "confidence": self.confidence,
            "reached": self.seconds_to_target is not None,
            "value": self.best["validation"],
            "low": self.best["low"],
            "high": self.best["high"],
            "epochs": len(self.rows),
            "seconds_to_target": self.seconds_to_target,
            "seconds": last["seconds"],
            "resumes": self.resumes,
            "samples_per_epoch": last["samples"],
            "input_stall": median(row["input_stall"] for row in self.rows),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training has to know."""
        names = ("rows", "best", "seconds_to_target", "resumes", "seconds")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; rows written after it are taken back."""
        self.rows, self.best = list(state["rows"]), dict(state["best"])
        self.seconds_to_target, self.resumes = state["seconds_to_target"], state["resumes"] + 1
        self.before = state["seconds"]
        self.write()

    def on_train_start(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Start the clock, as imports and data set-up are not training; be the one who is told to stop."""
        self.started = self.shown = self.saved = time.monotonic()
        for number in SIGNALS:
            signal.signal(number, self.stop if ranks.first() else signal.SIG_DFL)

    def stop(self, number: int, frame: Any) -> None:
        """Remember that somebody asked us to stop: only between two batches is the state whole."""
        self.asked_to_stop = signal.Signals(number).name

    def on_train_batch_end(self, trainer: pl.Trainer, learner: Any, outputs: Any, batch: Any, index: int) -> None:
        """Say where we are, keep a checkpoint now and then and one before validation, stop where asked to."""
        now, batches = time.monotonic(), int(trainer.num_training_batches)
        if now - self.shown >= PROGRESS_S:
            self.shown = now
            print(
                f"epoch {trainer.current_epoch + 1} of at most {trainer.max_epochs}, {100 * (index + 1) // batches} %",
                flush=True,
            )
        left = batches - index - 1
        due = bool(left and (left == 1 or self.asked_to_stop or now - self.saved >= CHECKPOINT_S))
        if ranks.agreed(due):
            self.keep(trainer)
        if left:
            self.leave(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, learner: Any, *batch: Any) -> None:
        """Stop where asked to; the checkpoint of one batch before is there."""
        self.leave(trainer)

    def on_validation_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Judge the epoch."""
        count = ranks.summed(learner.validation)
        epoch = ranks.summed(learner.epoch | {"loss": float(learner.epoch["loss"])})
        low, high = wilson(count["correct"], count["n"])
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "seconds": round(self.seconds, 2),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "samples": epoch["samples"],
            "train_loss": epoch["loss"] / epoch["batches"],
            "validation_loss": count["loss"] / count["n"],
            "validation": count["correct"] / count["n"],
            "low": low,
            "high": high,
        }
        for witness in self.witnesses:
            row |= witness.row()
        self.rows.append(row)
        self.write()
        if not self.best or row["validation"] > self.best["validation"]:
            self.best = row
            if ranks.first():
                save(learner.network, self.weights)
        print(f"epoch {row['epoch']}: validation {row['validation']:.4f} ({low:.4f} to {high:.4f})", flush=True)
        self.shown = time.monotonic()
        if wilson(count["correct"], count["n"], self.confidence)[0] >= self.target:
            self.seconds_to_target = row["seconds"]
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Keep a checkpoint of the judged epoch."""
        self.keep(trainer)
        self.leave(trainer)

    @property
    def weights(self) -> Path:
        """Where the best weights lie: by epoch, so that those of a later epoch never stand in for an earlier one's."""
        return self.folder / f"best-{self.best['epoch']:04d}.safetensors"

    def keep(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint."""
        trainer.save_checkpoint(checkpoints.path(self.folder, trainer.global_step), weights_only=False)
        self.saved = time.monotonic()

    def leave(self, trainer: pl.Trainer) -> None:
        """End the training where somebody asked for it."""
        if self.asked_to_stop:
            raise ValueError(
                f"stopped by {self.asked_to_stop} at step {trainer.global_step}; a checkpoint is kept, and the next "
                "run of the same knobs, data and code goes on there"
            )

    def write(self) -> None:
        """Write the CSV that MLflow mirrors while training runs; a reader sees a whole row or none of it."""
        if not ranks.first():
            return
        aside = self.folder / "curves.csv.partial"
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]) if self.rows else [])
            writer.writeheader()
            writer.writerows([{name: rounded(value) for name, value in row.items()} for row in self.rows])
        aside.rename(self.folder / "curves.csv")


def rounded(value: Any) -> Any:
    """Return a number with six decimals, and nothing for what was not measured."""
    return "" if value is None else round(value, 6)


def save(network: nn.Module, path: Path) -> None:
    """Write the weights as safetensors (contiguous, no pickle)."""
    from safetensors.torch import save as serialised

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    checkpoints.write(path, serialised(tensors))
