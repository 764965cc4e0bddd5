"""The layers: the same numbers and gradients as torch's own, whatever shortcut was taken."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tasks.networks.layers import LargeDepthwise, Same


def gradients(network: nn.Module, x: torch.Tensor, rates: torch.Tensor) -> list[torch.Tensor]:
    """Return an output and the gradients, of input and weights, of a weighted sum of it."""
    x = x.clone().requires_grad_()
    network.zero_grad()
    made = network(x)
    (made * rates[: made.numel()].view_as(made)).sum().backward()
    found = [made.detach(), x.grad, *(weight.grad for weight in network.parameters())]
    return [each for each in found if each is not None]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(5, 5), (10, 7), (13, 16), (1, 2)])
def test_a_large_depthwise_kernel_learns_from_the_gradients_of_torch(stride: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    quick = Same(6, 6, 5, stride, groups=6, bias=False).double()
    x, rates = torch.randn(3, 6, *size).double(), torch.randn(10_000).double()
    assert quick.is_slow_to_learn(x)
    found = gradients(quick.train(), x, rates)
    expected = gradients(quick.eval(), x, rates)
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_shortcut_is_taken_in_training_alone_and_in_the_type_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Same(4, 4, 5, 1, groups=4, bias=False), torch.randn(2, 4, 8, 8, requires_grad=True)
    taken: list[torch.dtype] = []
    apply = LargeDepthwise.apply

    def noted(*given: object) -> torch.Tensor:
        made: torch.Tensor = apply(*given)
        taken.append(made.dtype)
        return made

    monkeypatch.setattr(LargeDepthwise, "apply", noted)
    layer.eval()(x)
    Same(4, 4, 3, 1, groups=4, bias=False)(x)
    Same(4, 8, 5, 1, bias=False)(x)
    assert taken == []
    layer.train()(x)
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(functional.relu(x))
    assert taken == [torch.float32, torch.bfloat16]
    made.float().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


def test_nothing_that_rests_takes_the_shortcut() -> None:
    layer = Same(4, 4, 5, 1, groups=4, bias=False).requires_grad_(False)
    assert not layer.is_slow_to_learn(torch.zeros(1, 4, 8, 8))
