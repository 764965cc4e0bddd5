"""A small convolutional network for small images and spectrograms, from 16 x 16."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Knobs(BaseModel):
    """`width`: channels of the first layer; keep it a multiple of 16, as INT8 kernels work in such blocks."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["small"]
    width: Annotated[int, Field(ge=1, le=65_536)]


def build(channels: int, outputs: int, knobs: Knobs) -> Any:
    """Return the untrained network.

    A strided stem and a pool right after it, so that nothing is computed at full resolution; a global maximum before
    the head, which learns faster here than a mean.
    """
    from torch import nn

    from tasks.networks.layers import GlobalMaximum

    width = knobs.width
    network = nn.Sequential()
    network.add_module("stem", block(channels, width, kernel=4, stride=2))
    network.add_module("pool1", nn.MaxPool2d(2))
    network.add_module("block1", block(width, width))
    network.add_module("block2", block(width, 2 * width))
    network.add_module("pool2", nn.MaxPool2d(2))
    network.add_module("block3", block(2 * width, 2 * width))
    network.add_module("maximum", GlobalMaximum())
    network.add_module("head", nn.Linear(2 * width, outputs))
    return network


def block(channels: int, width: int, kernel: int = 3, stride: int = 1) -> Any:
    """Return convolution, batch norm (which folds into it for inference) and ReLU."""
    from torch import nn

    convolution = nn.Conv2d(channels, width, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
