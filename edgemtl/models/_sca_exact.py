"""The exact form of SCA-MTL's attention: softmax, linear attention and excitation as functions of codes.

Sums of products of codes are whole numbers below 2**24. Numbers that are divided are so small that no quotient is near
a tie (see edgemtl.networks.exact). The factor of the square root of the heads' width is in the layers before.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.networks import purposes
from edgemtl.networks.exact import FINE, Ratio, Softmax, Table, floor, scale_of
from edgemtl.networks.points import Point

LARGEST_PRODUCT = 127 * 127  # product of two codes
SUM = 2**24
READ = 1024  # whole numbers that an answer of linear attention is a quotient of
BIAS = 2.0**-6  # step of what is added to a window's logits


class ExactWindowAttend(nn.Module):
    """A WindowAttend on codes. `mask` (W, 1, n, n), if any, is 1 where a token may look."""

    purpose = purposes.ATTENTION

    mask: Tensor | None

    def __init__(self, tokens: int, mask: Tensor | None):
        super().__init__()
        self.query, self.key, self.value = Point(), Point(), Point()
        self.softmax = Softmax(tokens)
        self.ratio = Ratio(self.softmax.most)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        query, key, value = self.query(query), self.key(key), self.value(value)
        logits = (query.transpose(2, 3) @ key).unflatten(0, (len(bias), -1)) + bias[:, None]
        mask = None if self.mask is None else self.mask[:, None]
        weights = self.softmax(logits, -1, mask).flatten(0, 1).transpose(2, 3)
        return self.ratio(value @ weights, self.softmax.total(weights, 2))

    def settle(self) -> None:
        self.ratio.place(scale_of(self.value))


class ExactWeigh(nn.Module):
    """A Weigh on codes."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count
        self.taken = Point()
        self.softmax = Softmax(count)
        self.ratio = Ratio(self.softmax.most)

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        groups = (-1, self.count)
        weights = self.softmax(logits.unflatten(1, groups), 2)
        read: Tensor = self.ratio(weights * self.taken(x).unflatten(1, groups), self.softmax.total(weights, 2))
        return read.flatten(1, 2)

    def settle(self) -> None:
        self.ratio.place(scale_of(self.taken))


class ExactSummarise(nn.Module):
    """A Summarise of codes; the means' count is a power of two, which their ratio does not feel.

    If there are too many pixels for a sum of products, it sums and rounds parts of them first.
    """

    purpose = purposes.ATTENTION

    def __init__(self, pixels: int):
        super().__init__()
        power = math.ceil(math.log2(pixels))
        self.shares = 2.0 ** -(power // 2), 2.0 ** -(power - power // 2)
        self.parts = next(n for n in range(1, pixels + 1) if pixels % n == 0 and pixels // n * LARGEST_PRODUCT < SUM)
        self.keys, self.values = Table(F.softplus), Point()
        self.part = Point() if self.parts > 1 else nn.Identity()

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.keys(key).flatten(2) * self.shares[0], self.values(value).flatten(2)
        mean = keys.sum(2, keepdim=True) * self.shares[1]
        values = values * self.shares[1]
        if self.parts == 1:
            return mean, keys @ values.transpose(1, 2)
        several = (self.parts, -1)
        keys, values = keys.unflatten(2, several).transpose(1, 2), values.unflatten(2, several).transpose(1, 2)
        return mean, self.part(keys @ values.transpose(2, 3)).sum(1)


class ExactRead(nn.Module):
    """A Read of codes, as a quotient of two whole numbers below READ."""

    purpose = purposes.ATTENTION

    above: Tensor
    below: Tensor
    unit: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.asked, self.keys, self.shared = Table(F.softplus), Point(), Point()
        self.drop = 2.0 ** math.ceil(math.log2(channels * LARGEST_PRODUCT / READ))
        self.ratio = Ratio(READ)
        for name in ("above", "below"):
            self.register_buffer(name, torch.tensor(1 / FINE))
        self.register_buffer("unit", torch.ones(()))

    def forward(self, query: Tensor, summaries: list[tuple[Tensor, Tensor]]) -> Tensor:
        asked = self.asked(query).flatten(2).transpose(1, 2)
        keys, shared = (torch.cat(parts, 2) for parts in zip(*summaries, strict=True))
        above = floor(asked @ self.shared(shared) * self.above + 0.5) * self.unit
        below = floor(asked @ self.keys(keys) * self.below + 0.5).clamp(min=1)
        answer: Tensor = self.ratio(above.unflatten(2, (len(summaries), -1)), below.unsqueeze(3))
        return answer.flatten(2).transpose(1, 2).unflatten(2, query.shape[2:])

    def settle(self) -> None:
        asked, keys, shared = (scale_of(point) for point in (self.asked.given, self.keys, self.shared))
        if asked is not None and keys is not None and shared is not None:
            self.above.copy_(1 / (asked * shared * self.drop))
            self.below.copy_(1 / (asked * keys * self.drop))
            self.unit.copy_(shared / keys)
            self.ratio.place(self.unit)


class ExactSqueeze(nn.Module):
    """A Squeeze of codes; the mean's count is a power of two, and the first layer makes up for it."""

    def __init__(self, layers: nn.Sequential, pixels: int):
        super().__init__()
        power = 2.0 ** math.ceil(math.log2(pixels))
        self.share = 1 / power
        self.taken = Point()
        self.layers = nn.Sequential(*list(layers)[:-1], Table(torch.sigmoid))
        first = layers[0]
        assert isinstance(first, nn.Conv2d)
        first.weight.mul_(power / pixels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.taken(x)
        return x * self.layers(x.sum((2, 3), keepdim=True) * self.share)
