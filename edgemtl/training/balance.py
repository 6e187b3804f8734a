"""How the tasks' losses are balanced in training: a factor per task, by which the recipe's weight is multiplied.

The total loss is the sum over the tasks of weight * factor * loss. A task without labels in a batch changes nothing.
Fine-tuning after quantization has no factors, only the recipe's weights.
"""

from typing import Iterable

import torch
from torch import Tensor, nn

from edgemtl import objectives

TEMPERATURE = 2.0  # of dynamic weight averages, as in their paper


class Fixed(nn.Module):
    """Factors of 1. Tensors below are (T,) in the order of the tasks; `labelled` is bool."""

    ones: Tensor

    def __init__(self, tasks: Iterable[str]):
        super().__init__()
        self.tasks = list(tasks)
        self.register_buffer("ones", torch.ones(len(self.tasks)), persistent=False)

    def factors(self) -> Tensor:
        """The factor of each task in the next step."""
        return self.ones

    def objective(self, weights: Tensor, losses: Tensor, labelled: Tensor) -> Tensor | None:
        """A scalar of one step's losses, whose gradient trains this module's parameters; None if it has none."""
        return None

    def observe(self, losses: Tensor, labelled: Tensor, ends_epoch: bool) -> None:
        """Records the losses of one step."""


class Uncertainty(Fixed):
    """Learned weights: each task's noise has a variance, and its loss is divided by it.

    Kendall, Gal, Cipolla: Multi-Task Learning Using Uncertainty to Weigh Losses (CVPR 2018,
    https://arxiv.org/abs/1705.07115). With s the logarithm of the variance, 0 at first, a task adds
    weight * (c * exp(-s) * loss + s / 2), where c is 1/2 for regression and 1 for classification. So s
    settles where c * exp(-s) * loss is 1/2, whatever the recipe's weight.
    """

    c: Tensor

    def __init__(self, tasks: Iterable[str]):
        super().__init__(tasks)
        # One parameter each, so that the optimizer can pass over a task without labels: momentum would move a zero too.
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in self.tasks})
        c = torch.tensor([0.5 if objectives.of(name).regression else 1.0 for name in self.tasks])
        self.register_buffer("c", c, persistent=False)

    def factors(self) -> Tensor:
        return self.c * torch.stack([self.log_variance[name].detach() for name in self.tasks]).neg().exp()

    def objective(self, weights: Tensor, losses: Tensor, labelled: Tensor) -> Tensor | None:
        terms = [
            weights[i] * (self.c[i] * torch.exp(-self.log_variance[name]) * losses[i] + self.log_variance[name] / 2)
            for i, name in enumerate(self.tasks)
            if labelled[i]
        ]
        return torch.stack(terms).sum() if terms else None


class DynamicAverage(Fixed):
    """Dynamic weight averages: a task whose loss falls slowly counts for more.

    Liu, Johns, Davison: End-to-End Multi-Task Learning with Attention (CVPR 2019, https://arxiv.org/abs/1803.10704).
    The factors are T times the softmax of r / 2, where r is a task's average loss in the last epoch over that in the
    epoch before, 1 until there are two. Steps and epochs without labels for a task are left out of its own count.
    """

    sums: Tensor
    steps: Tensor
    newest: Tensor
    before: Tensor

    def __init__(self, tasks: Iterable[str]):
        super().__init__(tasks)
        for name in ("sums", "steps", "newest", "before"):  # of this epoch; averages of the two finished ones, or 0
            self.register_buffer(name, torch.zeros(len(self.tasks)))

    def factors(self) -> Tensor:
        counted = self.before > 0
        ratio = torch.where(counted, self.newest / torch.where(counted, self.before, 1), 1)
        return len(self.tasks) * (ratio / TEMPERATURE).softmax(0)

    def observe(self, losses: Tensor, labelled: Tensor, ends_epoch: bool) -> None:
        self.sums += losses * labelled
        self.steps += labelled
        if ends_epoch:
            counted = self.steps > 0
            self.before.copy_(torch.where(counted, self.newest, self.before))
            self.newest.copy_(torch.where(counted, self.sums / self.steps.clamp(min=1), self.newest))
            self.sums.zero_()
            self.steps.zero_()


BY_NAME: dict[str, type[Fixed]] = {"fixed": Fixed, "uncertainty": Uncertainty, "dwa": DynamicAverage}
