"""Depth: L1 in metres, plus a share of the squared error where a recipe asks for it."""

import torch
from torch import Tensor

from edgemtl.objectives import Objective, Pixels
from edgemtl.records.recipe import Losses
from edgemtl.tasks import Task


class DepthObjective(Objective):
    regression = True

    def loss(self, raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
        """Mean absolute error in metres, plus `depth_square` times half the mean squared error."""
        error = torch.where(self.valid(label, task), raw - label, 0)
        return (error.abs().sum() + 0.5 * options.depth_square * error.square().sum()) / pixels.labelled

    def activate(self, raw: Tensor) -> Tensor:
        return raw[:, 0].clamp(min=0)


objective = DepthObjective()
