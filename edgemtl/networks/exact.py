"""The parts of exact forms: functions, quotients and norms of codes that no float32 arithmetic can get wrong.

Each module returns codes, or multiples of a power of two. No value comes near a border of the rounding: a `Table` knows
all values of a function of codes, a `Ratio` divides whole numbers. Both depend on scales, which are known after
calibration; `settle` reads them. Before that, and between two roundings, the modules compute what the float form does,
up to steps too small to matter.
"""

import math
from typing import Callable

import torch
from torch import Tensor, nn

from edgemtl.networks.points import Point

FINE = 2.0**-12  # a step where the scale is not known yet
MOST_BELOW = 1700  # that a Ratio may divide by: half of the least difference is more than float32's error in 127 codes
WINDOW = 16  # a Table's values are moved by less than this part of a code


def scale_of(point: nn.Module) -> Tensor | None:
    """The scale of a point's quantizer; None where it has none yet."""
    quantizer = point.quantizer if isinstance(point, Point) else None
    return None if quantizer is None or isinstance(quantizer, nn.Identity) else quantizer.get_buffer("scale")


def floor(x: Tensor) -> Tensor:
    """Rounded down; in fine-tuning the gradient passes."""
    down = x.floor()
    return x + (down - x).detach() if x.requires_grad else down


class Table(nn.Module):
    """A function of codes, as codes; a part of a code is added to all its values, which keeps them off ties."""

    lift: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function
        self.taken, self.given = Point(), Point()
        self.register_buffer("lift", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.given(self.function(self.taken(x)) + self.lift)

    def settle(self) -> None:
        step_in, step_out = scale_of(self.taken), scale_of(self.given)
        if step_in is not None and step_out is not None:
            values = self.function(torch.arange(-128, 128, dtype=torch.float64) * step_in.double()) / step_out.double()
            lifts = torch.arange(-32, 33, dtype=torch.float64) / (32 * WINDOW)
            away = (values[:, None] + lifts + 0.5).frac().abs()
            self.lift.copy_(lifts[torch.minimum(away, 1 - away).amin(0).argmax()] * step_out)


class Ratio(nn.Module):
    """A quotient of codes, as codes: `most` is the largest whole number that it is divided by.

    A quotient and a tie are equal or at least min(unit, step / 2) / most apart. Half of that is added to all quotients,
    so that none is near a tie.
    """

    nudge: Tensor

    def __init__(self, most: int):
        super().__init__()
        assert most <= MOST_BELOW
        self.most = most
        self.given = Point()
        self.register_buffer("nudge", torch.zeros(()))

    def forward(self, above: Tensor, below: Tensor) -> Tensor:
        return self.given(above / below + self.nudge)

    def place(self, unit: Tensor | float | None) -> None:
        """Sets what follows from the unit of whole quotients."""
        step = scale_of(self.given)
        if step is not None and unit is not None:
            self.nudge.copy_(torch.minimum(torch.as_tensor(unit), step / 2) / (2 * self.most))


class Softmax(nn.Module):
    """The powers of e of logits' distances to the largest along an axis, as codes, and never more than `most` in sum.

    `mask` is 1 for logits that take part and 0 for the others.
    """

    def __init__(self, count: int):
        super().__init__()
        self.bits = min(7, int(math.log2(MOST_BELOW / count)))
        self.logits, self.powers = Point(), Point(2.0**-self.bits)
        self.most = count * min(2**self.bits, 127)

    def forward(self, logits: Tensor, axis: int, mask: Tensor | None = None) -> Tensor:
        logits = self.logits(logits)
        if mask is None:
            return self.powers((logits - logits.amax(axis, keepdim=True)).exp())
        largest = (logits + (mask - 1) * FAR).amax(axis, keepdim=True)
        codes = self.powers((logits - largest).clamp(max=0).exp())
        return codes * mask

    def total(self, powers: Tensor, axis: int) -> Tensor:
        """Their sum, which is never 0: the largest logit's power is 1."""
        return powers.sum(axis, keepdim=True).clamp(min=2.0**-self.bits)


FAR = 128.0


class Norm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W): codes, whose distances from a mean of codes are divided by half
    whole numbers, as a root of whole numbers below 2**16 gives them.

    The squares' sum is never near one whose root is a border. Its mean's count and the learned scale come in a layer of
    one weight for each channel.
    """

    share: Tensor
    finer: Tensor
    step: Tensor

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        (channels,) = norm.normalized_shape
        even = 2 * math.ceil(max(0, math.ceil(math.log2(channels)) - 2) / 2)
        self.drop = 2.0 ** -(even // 2)  # keeps the sum of squares of codes below 2**16
        bits = math.ceil(math.log2(channels)) + 7
        self.register_buffer("share", torch.tensor(round(2**bits / channels) / 2**bits), persistent=False)
        self.register_buffer("finer", torch.tensor(self.drop / FINE))
        self.register_buffer("step", torch.tensor(FINE))
        self.taken, self.mean, self.centred = Point(), Point(), Point()
        self.ratio = Ratio(512)
        self.affine = nn.Conv2d(channels, channels, 1, groups=channels).requires_grad_(False)
        assert self.affine.bias is not None
        with torch.no_grad():
            self.affine.weight.fill_(2 * self.drop * math.sqrt(channels))
            self.affine.bias.zero_()
            if norm.elementwise_affine:
                self.affine.weight.mul_(norm.weight.view(-1, 1, 1, 1))
                self.affine.bias.copy_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.taken(x)
        centred = self.centred(x - self.mean(x.sum(1, keepdim=True) * self.share))
        small = centred * self.finer
        squares = floor((small * small).sum(1, keepdim=True))
        deviation = floor((squares + 0.5).sqrt() * 2) * self.step
        return self.affine(self.ratio(centred, deviation))

    def settle(self) -> None:
        step = scale_of(self.centred)
        if step is not None:
            self.step.copy_(step)
            self.finer.copy_(self.drop / step)
            self.ratio.place(1.0)
