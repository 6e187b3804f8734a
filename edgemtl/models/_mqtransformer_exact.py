"""The exact form of MQTransformer's blocks: attention over many keys as sums and quotients of codes.

Logits are whole steps, and what is rounded to codes is their distance to the largest: how large logits are does not
matter. A weight is the sum of two codes, a coarse one for what is near the largest and a fine one for the rest, so that
a thousand pixels that each weigh little count as much together as they should. Sums over keys are exact; above and
below are divided by the power of four that leaves a whole number of at most READ below, and rounded, before the
quotient is taken (see edgemtl.networks.exact).

The queries of all tasks are one map, since encoder and exchange treat them alike.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from edgemtl.networks import purposes
from edgemtl.networks.exact import FINE, Ratio, floor, scale_of
from edgemtl.networks.points import Point

SUM = 2**24
CODE = 128  # the largest
READ = 1024  # the largest whole number that an answer is divided by
WHOLE = 64  # the largest weight, in steps of a coarse code
STEP = 2.0**-4  # of distances between logits
MIDDLE = 127 * STEP  # the distance whose code is 0
BORDER = -math.ceil(math.log(WHOLE) / STEP) * STEP  # the distance beyond which codes are fine
LOGIT = 2.0**-6  # what logits are multiples of
FACTOR = 4
COARSE = 0.125  # step of values while theirs is not known; they may reach CODE of it


class ExactAttend(nn.Module):
    """An Attend on codes, of so many keys; where they are too many for one sum of products, in parts."""

    purpose = purposes.ATTENTION

    unit: Tensor
    whole: Tensor

    def __init__(self, keys: int):
        super().__init__()
        self.parts = next(n for n in range(1, keys + 1) if keys % n == 0 and keys // n * WHOLE * CODE < SUM)
        self.shifts = max(0, math.ceil(math.log(keys * WHOLE / READ, FACTOR)))
        self.values, self.distance = Point(), Point(STEP)
        self.near = Point(1 / WHOLE)
        self.far = Point(WHOLE**-2) if self.shifts else None
        self.ratio = Ratio(READ)
        self.register_buffer("unit", torch.tensor(COARSE))
        self.register_buffer("whole", torch.tensor(WHOLE / COARSE))

    def forward(self, logits: Tensor, values: Tensor) -> Tensor:
        values = self.values(values).unflatten(1, (logits.shape[1], -1))
        codes = self.distance(logits - logits.amax(3, keepdim=True) + MIDDLE) - MIDDLE
        if self.far is None:
            weights = self.near(codes.exp()).transpose(2, 3)
            above = floor(values @ weights * self.whole + 0.5) * self.unit
            answer: Tensor = self.ratio(above, (weights.sum(2, keepdim=True) * WHOLE).clamp(min=1))
            return answer.flatten(1, 2)
        near = self.near(codes.clamp(min=BORDER).exp() - math.exp(BORDER))
        far = self.far(codes.clamp(max=BORDER).exp())
        total = near.sum(3, keepdim=True) * WHOLE + floor(far.sum(3, keepdim=True) * WHOLE + 0.5)
        total = total.transpose(2, 3)
        below = self._small(total, READ, total).clamp(1, READ)
        if self.parts > 1:
            near, far, values = (x.unflatten(3, (self.parts, -1)).transpose(2, 3) for x in (near, far, values))
            total = total.unsqueeze(2)
        near, far = near.transpose(-1, -2), far.transpose(-1, -2)  # beside the products, which runtimes then turn
        above = floor(values @ near * self.whole) + floor(values @ far * self.whole + 0.5)
        above = self._small(above, READ * CODE, total)
        if self.parts > 1:
            above = above.sum(2)
        answer = self.ratio(above * self.unit, below)
        return answer.flatten(1, 2)

    def _small(self, x: Tensor, most: int, total: Tensor) -> Tensor:
        """Whole numbers divided by that power of FACTOR which brings `total` to READ or less; `most` holds them."""
        total = total.detach() if total.requires_grad else total
        result = finer = x.clamp(-most, most)
        for shift in range(1, self.shifts + 1):
            coarser = floor(x * float(FACTOR) ** -shift + 0.5).clamp(-most, most)
            passed = (total - (READ * float(FACTOR) ** (shift - 1))).clamp(0, 1)
            result = result + (coarser - finer) * passed
            finer = coarser
        return result

    def settle(self) -> None:
        step, given = scale_of(self.values), scale_of(self.ratio.given)
        if step is not None and given is not None:
            self.unit.copy_(torch.maximum(step, given / 2))  # finer ones could not be told from ties
            self.whole.copy_(WHOLE / self.unit)
            self.ratio.place(self.unit)


class ExactLook(nn.Module):
    """Queries (B, C, Q) attend to keys (B, C, K) and their values. The root of a head's width is in the keys' layer."""

    purpose = purposes.ATTENTION

    def __init__(self, attend: ExactAttend, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key = Point(), Point()
        self.attend = attend

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        split = (self.heads, -1)
        query, key = self.query(query).unflatten(1, split), self.key(key).unflatten(1, split)
        return self.attend(query.transpose(2, 3) @ key, value)


class ExactLogits(nn.Module):
    """What a layer gives of a map, in steps of LOGIT, rounded, as logits (B, heads, Q, K)."""

    purpose = purposes.ATTENTION

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        return (floor(x + 0.5) * LOGIT).flatten(2).unflatten(1, (self.heads, -1))


class ExactBlock(nn.Module):
    """A Block on codes, whose Attends and norms are exact already."""

    tokens: Tensor
    placed: Tensor

    def __init__(self, block: Any):
        super().__init__()
        self.norm, self.logits = block.norm, block.logits
        self.encoder, self.cross, self.decoder = block.encoder, block.cross, block.decoder
        heads = block.cross.heads
        self.steps = ExactLogits(heads)
        tasks, queries = list(self.logits), [block.queries[task] for task in self.logits]
        self.reads = nn.ModuleDict({task: copy.deepcopy(self.encoder.attend) for task in tasks})
        self.shares = ExactLook(self.cross.attend, heads)
        self.looks = nn.ModuleDict({t: ExactLook(copy.deepcopy(self.decoder.attend), heads) for t in tasks})
        self.key_norm = copy.deepcopy(self.decoder.norm)
        for part in (self.encoder, self.cross, self.decoder):
            del part.attend
        for key in (self.cross.key, self.decoder.key):
            for parameter in (key.weight, key.bias):
                parameter *= (key.out_channels // heads) ** -0.5
        for layer in self.logits.values():  # there: OpenVINO would move a product behind them into their weights
            for parameter in (layer.weight, layer.bias):
                parameter /= LOGIT
        tokens = [query.start() for query in queries]
        placed = [query.keys(token) - token for query, token in zip(queries, tokens, strict=True)]
        self.register_buffer("tokens", (torch.cat(tokens, 2) / FINE).round().detach() * FINE)
        self.register_buffer("placed", (torch.cat(placed, 2) / FINE).round().detach() * FINE)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        encoder, cross, decoder = self.encoder, self.cross, self.decoder
        standard = {task: self.norm(x) for task, x in maps.items()}
        answers = [
            encoder.out(self.reads[task](self.steps(self.logits[task](x)), encoder.value(x).flatten(2))[..., None])
            for task, x in standard.items()
        ]
        # Of these sums: where codes of several scales are joined, OpenVINO gives them one.
        tokens = encoder.learned(self.tokens, torch.cat(answers, 2))
        shared = self.shares(*(layer(tokens).flatten(2) for layer in (cross.query, cross.key, cross.value)))
        tokens = cross.learned(tokens, shared)
        keys = decoder.key(self.key_norm(tokens + self.placed)).flatten(2).chunk(len(maps), 2)
        values = decoder.value(decoder.norm(tokens)).flatten(2).chunk(len(maps), 2)
        queries = {}
        for (task, x), key, value in zip(maps.items(), keys, values, strict=True):
            read_by = self.looks[task](decoder.query(standard[task]).flatten(2), key, value)
            queries[task] = decoder.learned(x, read_by)
        return queries
