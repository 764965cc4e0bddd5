"""What the networks are made of, beside torch's own layers."""

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
        if pads[0] == pads[1] == pads[2] == pads[3]:  # a convolution's own padding, which engines fuse
            return functional.conv2d(x, self.weight, self.bias, self.stride, pads[0], self.dilation, self.groups)
        padded = functional.pad(x, pads)
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Residual(nn.Sequential):
    """Layers whose output is added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return x + super().forward(x)
