"""A small convolutional network for image classification, its loss, and what counts as right."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

METRIC = "accuracy"


class Network(nn.Module):
    """Images float32 [batch, channels, size, size] -> logits [batch, classes]; any size from 28 pixels."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *block(channels, width),
            nn.MaxPool2d(2),
            *block(width, 2 * width),
            nn.MaxPool2d(2),
            *block(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, input: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.head(self.features(input))
        return logits


def block(channels: int, width: int) -> list[nn.Module]:
    """Convolution, batch norm, ReLU."""
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def build(spec: dict[str, Any], width: int) -> Network:
    """Return an untrained network for the data that `spec.json` describes."""
    return Network(spec["channels"], len(spec["classes"]), width)


def loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def correct(logits: Tensor, labels: Tensor) -> int:
    """Return how many of a batch are right (top-1)."""
    return int((logits.argmax(1) == labels).sum())
