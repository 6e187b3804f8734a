"""Surface normals: L1 of the unit vectors."""

from collections.abc import Sequence
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.objectives import Objective, Pixels
from edgemtl.records.recipe import Losses
from edgemtl.tasks import Task


class NormalsObjective(Objective):
    regression = True

    def loss(self, raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
        """L1 of the unit vectors, per pixel (summed over the three components) or per component."""
        error = torch.where(self.valid(label, task), F.normalize(raw, dim=1) - label, 0)
        return error.abs().sum() / (pixels.labelled if options.normals_mean == "pixels" else 3 * pixels.labelled)

    def activate(self, raw: Tensor) -> Tensor:
        return F.normalize(raw, dim=1)

    def distance(self, raw: Tensor, teacher: Tensor) -> Tensor:
        return (F.normalize(raw, dim=1) - F.normalize(teacher, dim=1)).abs().sum(1).mean()

    def mirrored(self, raw: Tensor) -> Tensor:
        """A mirrored surface faces the other way in x."""
        return super().mirrored(raw) * raw.new_tensor([-1, 1, 1]).view(3, 1, 1)

    def mean(self, raws: Sequence[Tensor]) -> Tensor:
        """Of the directions, whatever their lengths."""
        return super().mean([F.normalize(raw, dim=1) for raw in raws])

    def noise(self, raw: Tensor, teacher: Tensor) -> float:
        return super().noise(F.normalize(raw, dim=1), F.normalize(teacher, dim=1))

    def exact(self, raw: Tensor, lift: Tensor | None, resized: Callable[[Tensor], Tensor]) -> Tensor:
        """They keep their length: `decode` scales them."""
        return resized(raw)


objective = NormalsObjective()
