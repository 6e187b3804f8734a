"""What torch knows of the tasks: a file here for each one in `tasks/`, of the same name, whose `objective` it is.

Shapes: a raw output (B, C, h, w); a label as `tensor` makes it, (B, c, h, w), or (B, h, w) where it is a class id.
"""

from collections.abc import Sequence
from functools import cache
from typing import Callable, NamedTuple

import torch
from torch import Tensor

from edgemtl.ground import registry
from edgemtl.records.recipe import Losses
from edgemtl.tasks import Task


class Pixels(NamedTuple):
    """Counts over the whole batch, int64 scalars; `labelled` is at least 1."""

    all: Tensor
    labelled: Tensor
    positive: Tensor  # of what an objective's `positive` counts


class Objective:
    """What torch knows of a task. It has no state: every method takes the recipe's `task`.

    The defaults suit numbers for which L1 is a distance, such as metres.
    """

    regression = False  # whether its loss is a distance between numbers, for which `balance` takes another factor
    weighted = False  # whether a recipe may give its classes weights

    def tensor(self, label: Tensor) -> Tensor:
        """Stacked labels (B, h, w) or (B, h, w, c), as the task's label has them, for the loss."""
        return label[:, None].float() if label.ndim == 3 else label.permute(0, 3, 1, 2).float()

    def valid(self, label: Tensor, task: Task) -> Tensor:
        """The pixels that count, by the task's own word: bool, the label's shape with one channel."""
        return task.valid(label) if label.shape[1] == 1 else task.valid(label.movedim(1, -1))[:, None]

    def positive(self, label: Tensor) -> Tensor:
        """How many pixels a balanced loss weighs otherwise, an int64 scalar."""
        return torch.zeros((), dtype=torch.int64, device=label.device)

    def loss(self, raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
        """A sum over the pixels that count, divided by a count over the whole batch; a scalar.

        `raw` is float32 and has the label's size. Pixels that are not valid change neither the value nor the gradient.
        """
        raise NotImplementedError

    def activate(self, raw: Tensor) -> Tensor:
        """The map, (B, h, w) or (B, c, h, w), as `tasks` describes it."""
        raise NotImplementedError

    def distance(self, raw: Tensor, teacher: Tensor) -> Tensor:
        """How far raw outputs are from a teacher's, a scalar of the size of the loss."""
        return (raw - teacher).abs().mean()

    def mirrored(self, raw: Tensor) -> Tensor:
        """The raw output of mirrored frames, mirrored back."""
        return raw.flip(-1)

    def mean(self, raws: Sequence[Tensor]) -> Tensor:
        """What several raw outputs of the same frames say together."""
        return torch.stack([*raws]).mean(0)

    def noise(self, raw: Tensor, teacher: Tensor) -> float:
        """A distance that adds up over independent errors: of a distance between numbers, which does not, the mean
        square as a share of the variance of what is wanted."""
        if not self.regression:
            return float(self.distance(raw, teacher))
        return float((raw - teacher).square().mean() / teacher.var())

    # The exact form, see quantization/exact.py. A lift is a constant that keeps a map away from what rounding decides.

    def lift(self, channels: int) -> Tensor | None:
        """The lift while no scale is known; None where the map needs none."""
        return None

    def settle(self, lift: Tensor, scale: Tensor) -> None:
        """Sets the lift, in place, that follows from the scale of the raw codes."""

    def exact(self, raw: Tensor, lift: Tensor | None, resized: Callable[[Tensor], Tensor]) -> Tensor:
        """The map, the same bits everywhere; `resized` brings a raw output to the map's size."""
        return self.activate(resized(raw))


@cache
def of(name: str) -> Objective:
    """The objective of the task of that name."""
    return registry.load("objectives", name).objective
