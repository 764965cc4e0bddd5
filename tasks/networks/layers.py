"""What the networks are made of, beside torch's own layers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class GlobalMaximum(nn.Module):
    """[batch, channels, height, width] -> [batch, channels]: the largest of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima."""
        return x.amax(dim=(2, 3))


class GlobalMean(nn.Module):
    """[batch, channels, height, width] -> [batch, channels]: the mean of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the means."""
        return x.mean(dim=(2, 3))


class Same(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`, more behind than before, as weights from there expect it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ceil(size / stride) pixels each way."""
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            pads += [missing // 2, missing - missing // 2]
        if self.training and self.is_slow_to_learn(x):
            return LargeDepthwise.of(functional.pad(x, pads), self)
        if pads[0] == pads[1] == pads[2] == pads[3]:  # a convolution's own padding, which engines fuse
            return functional.conv2d(x, self.weight, self.bias, self.stride, pads[0], self.dilation, self.groups)
        padded = functional.pad(x, pads)
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def is_slow_to_learn(self, x: Tensor) -> bool:
        """Tell whether this is a case that `LargeDepthwise` is for."""
        depthwise = self.groups == self.in_channels == self.out_channels and self.bias is None
        return depthwise and self.kernel_size == (5, 5) and x.device.type == "cpu" and self.weight.requires_grad


class LargeDepthwise(torch.autograd.Function):
    """A depthwise convolution with 5 x 5 kernels, without padding, whose weights' gradient is quick on a CPU, too.

    oneDNN has quick code for the weight gradient of 3 x 3 kernels only, so the 25 sums of a kernel are taken as four
    overlapping gradients of 3 x 3 (benchmarks/depthwise.py: how much that gains).
    """

    @staticmethod
    def of(x: Tensor, layer: nn.Conv2d) -> Tensor:
        """Return what a layer makes of an input that is padded already, in autocast's type where that is on."""
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else layer.weight.dtype
        made: Tensor = LargeDepthwise.apply(x.to(kind), layer.weight.to(kind), list(layer.stride))
        return made

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
        """Return [n, c, (height - 5) // stride + 1, ...] of [n, c, height, width] and weights [c, 1, 5, 5]."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, None, stride, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Return the gradients of input and weights."""
        (gradient,), (x, weight) = given, ctx.saved_tensors
        of_x = input_gradient(gradient, x, weight, ctx.stride) if ctx.needs_input_grad[0] else None
        return of_x, weight_gradient(gradient, x, weight, ctx.stride), None


def input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
    """Return the gradient of a 5 x 5 depthwise convolution's input; with a stride it is one of spread gradients."""
    if stride == [1, 1]:
        return convolution_gradients(gradient, x, weight, stride, [True, False, False])[0]
    height, width = x.shape[2:]
    spread = gradient.new_zeros((*x.shape[:2], height + 4, width + 4)).to(memory_format=torch.channels_last)
    spread[:, :, 4 : height : stride[0], 4 : width : stride[1]] = gradient
    return functional.conv2d(spread, weight.flip(2, 3), groups=len(weight))


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
    """Return the gradient of a 5 x 5 depthwise convolution's weights [c, 1, 5, 5], from four of 3 x 3."""
    found = torch.empty_like(weight)
    rows, columns = ((size - 1) * step + 3 for size, step in zip(gradient.shape[2:], stride, strict=True))
    for i in (0, 2):
        for j in (0, 2):
            window, part = x[:, :, i : i + rows, j : j + columns], weight[:, :, i : i + 3, j : j + 3]
            gradients = convolution_gradients(gradient, window, part, stride, [False, True, False])
            found[:, :, i : i + 3, j : j + 3] = gradients[1]
    return found


def convolution_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: list[int], of: list[bool]
) -> tuple[Tensor, ...]:
    """Return torch's own gradients of a depthwise convolution's input, weights and bias, those that are asked for."""
    rest = (stride, [0, 0], [1, 1], False, [0, 0], len(weight), of)
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(gradient, x, weight, None, *rest)
    return found


class Residual(nn.Sequential):
    """Layers whose output is added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return x + super().forward(x)
