"""ResNet-18 with random weights, as benchmarks/engines.py times it: the standard network, built from basic blocks."""

from typing import Any

import torch
from torch import nn

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # width, stride
CLASSES = 1000


class Block(nn.Module):
    """Two 3x3 convolutions and the way around them."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        second = (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        first = (nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.main = nn.Sequential(*first, *second)
        projection = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.around = projection if stride > 1 or before != width else nn.Identity()

    def forward(self, x: Any) -> Any:
        """Add both ways."""
        return torch.relu(self.main(x) + self.around(x))


def resnet18() -> Any:
    """Return the network in eval mode; its BatchNorm statistics are random too, so folding them is no formality."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    before = 64
    for width, stride in STAGES:
        layers += [Block(before, width, stride), Block(width, width, 1)]
        before = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))
    network.apply(randomise)
    return network.eval()


def randomise(module: Any) -> None:
    """Draw the weights of a convolution, or the statistics and the affine part of a BatchNorm."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm2d):
        module.running_mean.normal_(0, 0.1)
        module.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(module.weight, 0.5, 1.5)
        nn.init.normal_(module.bias, 0, 0.1)
