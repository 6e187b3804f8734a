"""Class ids: cross entropy, argmax, and the divergence of two distributions."""

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.objectives import Objective, Pixels
from edgemtl.records.recipe import Losses
from edgemtl.tasks import Task
from edgemtl.tasks._labels import IGNORED

FRACTIONS = 16  # of a code: what enlarging twice by two gives


def divergence(raw: Tensor, teacher: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of two softmaxes over the channels, mean per pixel."""
    each = F.kl_div(raw.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True)
    return each.sum(1).mean()


class ClassesObjective(Objective):
    """Of a task whose label is a class id."""

    weighted = True

    def tensor(self, label: Tensor) -> Tensor:
        return label.long()

    def valid(self, label: Tensor, task: Task) -> Tensor:
        return task.valid(label)

    def loss(self, raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
        """Cross entropy, a pixel's weighted by its class where the recipe has weights for the task."""
        weights = options.class_weights.get(task.name)
        weight = torch.tensor(weights, device=raw.device) if weights else None
        label = torch.where(self.valid(label, task), label, IGNORED)
        # Pixel by pixel, as channels-last maps lie in memory: of maps cross_entropy makes copies, at 2 to 4 times the
        # cost.
        rows = raw.permute(0, 2, 3, 1).flatten(0, 2)
        total = F.cross_entropy(rows, label.flatten(), weight, ignore_index=IGNORED, reduction="sum")
        return total / pixels.labelled

    def activate(self, raw: Tensor) -> Tensor:
        return raw.argmax(1).to(torch.int32)

    def distance(self, raw: Tensor, teacher: Tensor) -> Tensor:
        return divergence(raw, teacher)

    def lift(self, channels: int) -> Tensor:
        return torch.zeros(1, channels, 1, 1)

    def settle(self, lift: Tensor, scale: Tensor) -> None:
        """A fraction of a code for each class, below that of bilinear weights."""
        classes = lift.shape[1]
        share = scale / FRACTIONS / (1 << (classes - 1).bit_length())
        lift.copy_((torch.arange(classes, dtype=lift.dtype) * share).view(1, -1, 1, 1))

    def exact(self, raw: Tensor, lift: Tensor | None, resized: Callable[[Tensor], Tensor]) -> Tensor:
        """Lifted, no two classes are ever equal, and argmax has nothing to settle."""
        return self.activate(resized(raw if lift is None else raw + lift))
