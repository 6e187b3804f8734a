"""What exact forms are built of: near what they stand for, and off every tie."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemtl.networks import exact
from edgemtl.networks.layers import LayerNorm2d
from edgemtl.networks.points import Point
from edgemtl.quantization.quantizers import FakeQuantize

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture
def without_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def quantize(module, **scales):
    """Quantizers for a module's points, by their paths, and what follows from them."""
    for path, point in module.named_modules():
        if isinstance(point, Point):
            scale = point.scale or scales[path.replace(".", "_")]
            point.quantizer = FakeQuantize(torch.tensor(scale), None, "activation", path)
    for part in module.modules():
        if hasattr(part, "settle"):
            part.settle()
    return module


def from_ties(codes):
    return ((codes + 0.5) - (codes + 0.5).round()).abs().min()


@pytest.mark.parametrize("function", [F.softplus, torch.sigmoid])
@pytest.mark.parametrize("bits", range(2, 8))
def test_no_value_of_a_table_is_near_a_tie(function, bits):
    table = quantize(exact.Table(function), taken=2.0**-bits, given=2.0**-7)
    x = torch.arange(-128, 128) * 2.0**-bits
    assert from_ties((function(x.double()) + table.lift) * 2**7) > 2.0**-12
    assert (table(x) - function(x).clamp(max=127 / 128)).abs().max() < 0.6 * 2.0**-7


@pytest.mark.slow
@pytest.mark.parametrize("step", [2.0**-9, 2.0**-7, 2.0**-4])
def test_no_quotient_is_near_a_tie(step):
    ratio = quantize(exact.Ratio(1600), given=step)
    ratio.place(2.0**-6)
    above, below = torch.arange(-2000, 2000, dtype=torch.float64)[:, None], torch.arange(1, 1601, dtype=torch.float64)
    inside = (above / below * 2.0**-6).abs() < 128 * step
    assert from_ties(((above / below * 2.0**-6 + ratio.nudge) / step)[inside]) > 2.0**-13 * min(1, 2 * 2.0**-6 / step)
    assert ratio.nudge < 2.0**-11 * step


@pytest.mark.parametrize("channels", [6, 16, 24, 192, 256])
def test_a_norm_is_near_layer_norm(channels):
    norm = LayerNorm2d(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, channels, 5, 7) * (torch.rand(2, 1, 5, 7) + 0.3) + 0.3
    plain, made = norm(x), exact.Norm(norm)
    torch.testing.assert_close(made(x), plain, rtol=5e-3, atol=1e-2)
    quantize(made, taken=2.0**-5, mean=2.0**-6, centred=2.0**-5, ratio_given=2.0**-7 if channels < 100 else 2.0**-6)
    assert (made(x) - plain).std() < 0.1 * plain.std()


def test_a_root_is_never_near_a_border():
    squares = torch.arange(2**16 + 1, dtype=torch.float64)
    twice = 2 * (squares + 0.5).sqrt()
    assert (twice - twice.round()).abs().min() > 2.0**-10 > 512 * 2.0**-20


@pytest.mark.parametrize("count", [3, 4, 25, 49])
def test_powers_are_those_of_a_softmax(count):
    softmax = quantize(exact.Softmax(count), logits=2.0**-4)
    logits, mask = 2 * torch.randn(5, count), torch.ones(5, count)
    mask[:, 0] = 0
    logits[0, 0] = 7.9  # of what takes no part, the largest
    for seen in (None, mask):
        powers = softmax(logits, 1, seen)
        wanted = logits if seen is None else logits.masked_fill(seen == 0, -torch.inf)
        assert (powers / softmax.total(powers, 1) - wanted.softmax(1)).abs().max() < (0.04 if count < 49 else 0.07)
        assert softmax.total(powers, 1).max() <= softmax.most * softmax.powers.scale
        assert softmax.most <= exact.MOST_BELOW
    assert (powers[:, 0] == 0).all()
