"""The health of a training: it stops at numbers that went wrong, and says at which step and in which layer."""

from math import isfinite
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

WINDOW = 20  # steps whose mean loss is looked at; on a GPU also how often, because looking waits for it
EXPLODED = 10.0  # times the mean loss of the first steps
COLLAPSED = 1.0  # loss scale; it starts at 65,536 and halves with each step whose gradients overflow


class Health(pl.Callback):
    """Looks at every loss before its gradients reach the weights, and at the loss scale of mixed precision."""

    def __init__(self, sample: Tensor) -> None:
        self.sample = sample  # on which mixed precision is compared with float32
        self.compared: dict[str, dict[str, float]] = {}
        self.first: list[float] = []
        self.last: list[float] = []
        self.waiting: list[Tensor] = []
        self.scale: float | None = None
        self.skipped = 0

    def row(self) -> dict[str, float | int | None]:
        """Return the columns of an epoch; None without a loss scale, which only float16 needs."""
        return {"loss_scale": self.scale, "skipped_steps": None if self.scale is None else self.skipped}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training has to know."""
        names = ("compared", "first", "last", "scale", "skipped")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.compared = dict(state["compared"])
        self.first, self.last = list(state["first"]), list(state["last"])
        self.scale, self.skipped = state["scale"], state["skipped"]

    def on_train_start(self, trainer: pl.Trainer, learner: Any) -> None:
        """Compare precisions before the first step, and see where the loss scale begins."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and self.scale is None:
            self.scale = scaler.get_scale()
        if "start" not in self.compared:
            self.compared["start"] = against_float32(learner, self.sample.to(learner.device))

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Compare precisions after each epoch; the last one counts."""
        self.compared["end"] = against_float32(learner, self.sample.to(learner.device))

    def on_before_backward(self, trainer: pl.Trainer, learner: Any, loss: Tensor) -> None:
        """Raise `ValueError` for a loss that is no number or that exploded."""
        self.waiting.append(learner.loss)  # `loss` itself comes here scaled
        if loss.device.type != "cpu" and len(self.waiting) < WINDOW:
            return
        for value in torch.stack(self.waiting).float().tolist():
            self.judge(value, trainer, learner)
        self.waiting.clear()

    def judge(self, value: float, trainer: pl.Trainer, learner: Any) -> None:
        """Compare one loss with those before."""
        if not isfinite(value):
            raise wrong(f"the loss is {value}", trainer, learner, broken(learner))
        if len(self.first) < WINDOW:
            self.first.append(value)
            return
        self.last = [*self.last, value][-WINDOW:]
        start, now = sum(self.first) / WINDOW, sum(self.last) / len(self.last)
        if len(self.last) == WINDOW and now > EXPLODED * start:
            layer = largest(learner)
            raise wrong(
                f"the loss exploded, from {start:.3g} to {now:.3g} over {WINDOW} steps", trainer, learner, layer
            )

    def on_train_batch_end(self, trainer: pl.Trainer, learner: Any, outputs: Any, batch: Any, index: int) -> None:
        """Follow the loss scale; `ValueError` where it collapsed."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None or (batch[0].device.type != "cpu" and index % WINDOW):
            return
        scale = scaler.get_scale()
        self.skipped += self.scale is not None and scale < self.scale
        self.scale = scale
        if scale < COLLAPSED:
            reason = f"the loss scale of mixed precision collapsed to {scale:.3g} after {self.skipped} skipped steps"
            raise wrong(reason, trainer, learner, steepest(learner))


def wrong(reason: str, trainer: pl.Trainer, learner: Any, layer: str) -> ValueError:
    """Return the error that ends a training."""
    return ValueError(
        f"{reason} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}), {layer}; the last good "
        f"checkpoint is kept; lower train.learning_rate (now {learner.knobs['learning_rate']:g}) or set "
        "train.precision to 32-true"
    )


def broken(learner: Any) -> str:
    """Name the first layer whose weights, or whose output for the current batch, are not finite."""
    for name, tensor in learner.network.named_parameters():
        if not tensor.isfinite().all():
            return f"the weights '{name}' are not finite"
    for name, output in outputs(learner):
        if not output.isfinite().all():
            return f"the first layer with an output that is not finite is '{name}'"
    return "every layer's output is finite, so it is the loss itself"


def largest(learner: Any) -> str:
    """Name the layer with the largest output for the current batch."""
    name, size = max(((name, float(output.abs().max())) for name, output in outputs(learner)), key=lambda each: each[1])
    return f"the layer with the largest output is '{name}' ({size:.3g})"


def steepest(learner: Any) -> str:
    """Name the weights with the largest gradient; one that is not finite comes first."""
    sizes = {
        name: tensor.grad.abs().max() for name, tensor in learner.network.named_parameters() if tensor.grad is not None
    }
    bad = [name for name, size in sizes.items() if not isfinite(float(size))]
    name = bad[0] if bad else max(sizes, key=lambda each: float(sizes[each]), default="none")
    return f"gradients are {'not finite' if bad else 'largest'} in '{name}'"


def outputs(learner: Any) -> list[tuple[str, Tensor]]:
    """Return every layer's output for the current batch, in the order they are computed."""
    found: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: found.append((name, output.detach())))
        for name, module in learner.network.named_modules()
        if isinstance(module, nn.Module) and not list(module.children())
    ]
    try:
        with torch.no_grad(), learner.trainer.precision_plugin.forward_context():
            learner.network(learner.current[0])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def against_float32(learner: Any, x: Tensor) -> dict[str, float]:
    """Compare the forward pass in the training's precision with float32: largest difference, share of equal answers."""
    was_training = learner.network.training
    learner.network.eval()
    with torch.no_grad():
        with learner.trainer.precision_plugin.forward_context():
            mixed = learner.network(x).float()
        plain = learner.network(x.float()).float()
    learner.network.train(was_training)
    same = (mixed.argmax(1) == plain.argmax(1)).float().mean()
    return {
        "n": len(x),
        "max_difference": round(float((mixed - plain).abs().max()), 6),
        "agreement": round(float(same), 6),
    }
