"""Fashion-MNIST as a LightningModule: the MNIST example's network, Adam, EarlyStopping at the target, all else default.

    python fashion_lightning.py FOLDER SEED TARGET

FOLDER has the idx files. Prints the seconds of `trainer.fit`.
"""

import sys
import tempfile
import time
from typing import Any

import pytorch_lightning as pl
import torch
from fashion_data import images, network
from pytorch_lightning.callbacks import EarlyStopping
from torch.nn import functional
from torch.utils.data import DataLoader, random_split

BATCH, EPOCHS = 64, 14


class Classifier(pl.LightningModule):
    """A network, its loss and its optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss."""
        x, y = batch
        loss = functional.cross_entropy(self.model(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy."""
        x, y = batch
        self.log("val_acc", (self.model(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(folder: str, seed: int, target: float) -> None:
    """Train until the target."""
    pl.seed_everything(seed)
    training, validation = random_split(images(folder), [54_000, 6_000])
    stop = EarlyStopping("val_acc", mode="max", stopping_threshold=target - 1e-6, patience=EPOCHS)
    with tempfile.TemporaryDirectory() as aside:
        trainer = pl.Trainer(max_epochs=EPOCHS, callbacks=[stop], default_root_dir=aside)
        loaders = (
            DataLoader(training, batch_size=BATCH, shuffle=True, num_workers=1, persistent_workers=True),
            DataLoader(validation, batch_size=BATCH, num_workers=1, persistent_workers=True),
        )
        begun = time.perf_counter()
        trainer.fit(Classifier(), *loaders)
        spent = time.perf_counter() - begun
    print(f"seconds {spent:.2f} reached {float(trainer.callback_metrics['val_acc']) >= target - 1e-6}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
