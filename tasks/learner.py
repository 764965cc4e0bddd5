"""The Lightning side of training: the network, its loss, its optimiser and what is counted."""

from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

WARM_UP = 0.2  # share of the cycle that the learning rate climbs
START = 0.1  # share of the peak where it begins
FLOOR = 0.02  # share of the peak where it rests after the cycle
MOMENTUM = 0.9
LEAST = 0.2  # share of the head's rate; a child with less rests, and costs no backward pass


class Learner(pl.LightningModule):
    """Trains a network with SGD on one learning-rate cycle and counts right answers on validation.

    Where it began from weights of others, the head learns alone for some epochs, at the peak; then the rest joins in,
    each child of the network slower than the one after it, down to the slowest, before which nothing changes.
    """

    def __init__(
        self, network: nn.Sequential, problem: ModuleType, knobs: dict[str, Any], steps_per_epoch: int
    ) -> None:
        super().__init__()
        self.network, self.problem, self.knobs = network, problem, knobs
        pretrained = knobs["pretrained"] or {"head_epochs": 0, "rate_decay": 1.0}
        self.head_epochs = pretrained["head_epochs"]
        learning = [child for child in reversed(list(network)) if list(child.parameters())]
        self.rates = {child: pretrained["rate_decay"] ** distance for distance, child in enumerate(learning)}
        self.head_steps = self.head_epochs * steps_per_epoch
        self.cycle_steps = knobs["schedule_epochs"] * steps_per_epoch
        self.health: Any = None  # the callback that every row of the curves asks
        self.current: Any = None  # the batch at hand
        self.loss: Any = None  # and its loss
        self.epoch: dict[str, Any] = {"loss": 0.0, "batches": 0, "samples": 0}
        self.validation = {"correct": 0, "n": 0, "loss": 0.0}

    def on_train_start(self) -> None:
        """Go on within an epoch as it was begun."""
        self.choose()

    def on_train_epoch_start(self) -> None:
        """Start counting."""
        self.epoch = {"loss": 0.0, "batches": 0, "samples": 0}
        self.choose()

    def choose(self) -> None:
        """Let learn what is to learn in this epoch; what isn't keeps its statistics, too."""
        whole = self.current_epoch >= self.head_epochs
        for child in list(self.network)[:-1]:
            learns = whole and self.rates.get(child, 1.0) >= LEAST
            child.train(learns).requires_grad_(learns)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Return the loss of one batch."""
        x, y = channels_last(batch[0]), batch[1]
        value: Tensor = self.problem.loss(self.network(x), y, self.knobs["label_smoothing"])
        self.current, self.loss = (x, y), value.detach()
        self.epoch["loss"] = self.epoch["loss"] + self.loss.double()
        self.epoch["batches"] += 1
        self.epoch["samples"] += len(y)
        return value

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was counted in this epoch, and the random states: on a GPU dropout draws from its own."""
        counts = self.epoch | {"loss": float(self.epoch["loss"])}
        on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        checkpoint["engineworks"] = {"epoch": counts, "random": torch.get_rng_state(), "gpu_random": on_gpu}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting, and drawing, where the checkpoint was taken."""
        self.epoch = dict(checkpoint["engineworks"]["epoch"])
        torch.set_rng_state(checkpoint["engineworks"]["random"])
        if torch.cuda.is_available() and checkpoint["engineworks"]["gpu_random"] is not None:
            torch.cuda.set_rng_state(checkpoint["engineworks"]["gpu_random"])

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
        """SGD with Nesterov momentum; no weight decay on biases and norms; the head's group comes first."""
        groups: list[dict[str, Any]] = []
        for child, share in self.rates.items():
            rate = self.knobs["learning_rate"] * share
            for decay, chosen in ((self.knobs["weight_decay"], weights(child)), (0.0, weights(child, others=True))):
                groups += [{"params": chosen, "weight_decay": decay, "lr": rate}] if chosen else []
        optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cycle(step - self.head_steps, self.cycle_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def weights(module: nn.Module, others: bool = False) -> list[Tensor]:
    """Return the matrices and kernels of a module, or its other parameters: biases and norms."""
    return [each for each in module.parameters() if (each.ndim <= 1) == others]


def channels_last(x: Tensor) -> Tensor:
    """Lay the batch out as the convolutions want it."""
    return x.to(memory_format=torch.channels_last)


def cycle(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: the peak before the cycle, linear up, linear down, then the floor."""
    peak = max(1, int(WARM_UP * steps))
    if step < 0:
        return 1.0
    if step < peak:
        return START + (1 - START) * step / peak
    return max(FLOOR, 1 - (1 - FLOOR) * (step - peak) / max(1, steps - peak))
