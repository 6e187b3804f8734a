"""A probability: balanced binary cross entropy, sigmoid, and the divergence of two probabilities."""

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.objectives import Objective, Pixels
from edgemtl.objectives._classes import FRACTIONS, divergence
from edgemtl.records.recipe import Losses
from edgemtl.tasks import Task

LEVELS = 256  # of a probability in the exact form


def _logit(raw: Tensor) -> Tensor:
    """(B, h, w) the logit of one channel (sigmoid) or of two (softmax)."""
    return raw[:, 1] - raw[:, 0] if raw.shape[1] == 2 else raw[:, 0]


class ProbabilityObjective(Objective):
    """Of a task whose label is 0 or 1."""

    def positive(self, label: Tensor) -> Tensor:
        return (label == 1).sum()

    def weight(self, task: Task, pixels: Pixels) -> float | Tensor:
        """The weight of positive pixels; that of the others is 1 less it."""
        raise NotImplementedError

    def loss(self, raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
        """Binary cross entropy with a weight w on positive pixels and 1 - w on the others."""
        positive, weight = label == 1, self.weight(task, pixels)
        each = F.binary_cross_entropy_with_logits(_logit(raw)[:, None], positive.float(), reduction="none")
        total = (each * torch.where(positive, weight, 1 - weight) * self.valid(label, task)).sum()
        return total / (pixels.all if options.bce_mean == "all" else pixels.labelled)

    def activate(self, raw: Tensor) -> Tensor:
        return raw.softmax(1)[:, 1] if raw.shape[1] == 2 else raw[:, 0].sigmoid()

    def distance(self, raw: Tensor, teacher: Tensor) -> Tensor:
        if raw.shape[1] == 2:
            return divergence(raw, teacher)
        goal = teacher.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(teacher, goal)
        return F.binary_cross_entropy_with_logits(raw, goal) - entropy

    def lift(self, channels: int) -> Tensor:
        return torch.full((), 0.5)

    def settle(self, lift: Tensor, scale: Tensor) -> None:
        """The border of rounding that none of the few values that a sigmoid of codes has comes near."""
        codes = torch.arange(-256 * FRACTIONS, 256 * FRACTIONS + 1, dtype=torch.float64)
        fractions = ((codes * scale.double() / FRACTIONS).sigmoid() * LEVELS).frac()
        lifts = torch.arange(512, 1536, dtype=torch.float64) / 2048  # float16 holds them; rounding stays rounding
        away = (fractions[:, None] + lifts).frac()
        lift.copy_(lifts[torch.minimum(away, 1 - away).amin(0).argmax()])

    def exact(self, raw: Tensor, lift: Tensor | None, resized: Callable[[Tensor], Tensor]) -> Tensor:
        """Whole 256ths."""
        x = resized(raw)
        return self.activate(x) if lift is None else (_logit(x).sigmoid() * LEVELS + lift).floor() * (1 / LEVELS)
