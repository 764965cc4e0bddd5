"""The callback that tells how long training waited for its input."""

import time
from typing import Any

import pytorch_lightning as pl

from tasks import ranks


class Stall(pl.Callback):
    """Per epoch, the share of training time that was spent waiting for a batch; validation is not counted."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.share = batches, 0.0
        self.began, self.waited = time.monotonic(), 0.0

    def on_train_start(self, trainer: pl.Trainer, learner: Any) -> None:
        """Start the clock; a training that goes on within an epoch starts no other."""
        self.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, learner: Any) -> None:
        """Start the clock."""
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self.began, self.waited = time.monotonic(), self.batches.waited

    def on_validation_start(self, trainer: pl.Trainer, learner: Any) -> None:
        """Stop the clock: the epoch's training is over."""
        self.share = (self.batches.waited - self.waited) / max(1e-9, time.monotonic() - self.began)

    def row(self) -> dict[str, float]:
        """Return what a row of the curves says of it: the process that waited longest held up all."""
        return {"input_stall": max(ranks.gathered(self.share))}
