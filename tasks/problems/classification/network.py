"""A small convolutional network for classification, its loss, and what counts as right."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

METRIC = "accuracy"


class Network(nn.Module):
    """Images or spectrograms, float32 [batch, channels, height, width] -> logits [batch, classes]; from 16 x 16.

    A strided stem and a pool right after it, so that nothing is computed at full resolution; a global maximum before
    the head, which learns faster here than a mean. Keep `width` a multiple of 16: INT8 kernels work in such blocks.
    """

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(channels, width, kernel=4, stride=2),
            nn.MaxPool2d(2),
            block(width, width),
            block(width, 2 * width),
            nn.MaxPool2d(2),
            block(2 * width, 2 * width),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, input: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.head(self.features(input).amax(dim=(2, 3)))
        return logits


def block(channels: int, width: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return convolution, batch norm (which folds into it for inference) and ReLU."""
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def build(spec: dict[str, Any], width: int) -> Network:
    """Return an untrained network for the data that `spec.json` describes."""
    return Network(spec["shape"][0], len(spec["classes"]), width)


def loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def correct(logits: Tensor, labels: Tensor) -> int:
    """Return how many of a batch are right (top-1)."""
    return int((logits.argmax(1) == labels).sum())
