"""Saliency: binary cross entropy, balanced by each batch's share of what is not salient."""

from torch import Tensor

from edgemtl.objectives import Pixels
from edgemtl.objectives._probability import ProbabilityObjective
from edgemtl.tasks import Task


class SaliencyObjective(ProbabilityObjective):
    def weight(self, task: Task, pixels: Pixels) -> float | Tensor:
        return (pixels.labelled - pixels.positive) / pixels.labelled


objective = SaliencyObjective()
