"""Float32 gradients of bfloat16 depthwise convolutions: the same results, better gradients, nothing else touched."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemtl.ops.depthwise import Float32Gradients
from edgemtl.training.launch import launch


def both(conv, x):
    """Results under autocast without and with the context."""
    with torch.autocast("cpu", torch.bfloat16):
        plain = conv(x)
        with Float32Gradients():
            return plain, conv(x)


@pytest.mark.parametrize("kernel, stride, bias", [(5, 1, True), (3, 2, False), ((1, 5), (2, 1), True)])
def test_same_results_and_float32_gradients(kernel, stride, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, kernel, stride, 1, groups=16, bias=bias)
    x = torch.randn(2, 16, 12, 14).bfloat16().float().requires_grad_()
    plain, ours = both(conv, x)
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, plain) and ours.grad_fn.name() != plain.grad_fn.name()
    outward = torch.randn(ours.shape).bfloat16()
    ours.backward(outward)
    found = [x.grad, *(p.grad for p in conv.parameters())]
    rounded = [p.detach().clone().requires_grad_() for p in (x, *conv.parameters())]
    F.conv2d(*rounded, *[None] * (not bias), stride, 1, groups=16).backward(outward.float())
    torch.testing.assert_close(found[0], rounded[0].grad, rtol=1e-2, atol=1e-2)  # in bfloat16 for what is before
    for mine, exact in zip(found[1:], rounded[1:], strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, exact.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("options", [{"groups": 16}, {"kernel_size": 5}, {"groups": 8, "kernel_size": 5}])
def test_other_convolutions_are_left_alone(options):
    plain, ours = both(nn.Conv2d(16, 16, **{"kernel_size": 3} | options), torch.randn(1, 16, 8, 8))
    assert ours.grad_fn.name() == plain.grad_fn.name()


def test_without_autocast_nothing_changes():
    with Float32Gradients():
        assert nn.Conv2d(4, 4, 5, groups=4)(torch.randn(1, 4, 8, 8)).dtype == torch.float32


def test_training_in_bfloat16_on_a_cpu_has_it():
    fabric = launch("bf16-mixed", "cpu", 1, 1, "auto")
    conv = nn.Conv2d(4, 4, 5, groups=4, bias=False)
    model = fabric.setup(conv)
    seen = []
    conv.register_forward_hook(lambda module, inputs, output: seen.append(output.grad_fn.name()))
    model(torch.randn(1, 4, 8, 8))
    assert seen == ["_Conv2dBackward"] and fabric.strategy.precision.precision == "bf16-mixed"
