"""Edges: binary cross entropy, balanced by the task's own weight of edge pixels."""

from torch import Tensor

from edgemtl.objectives import Pixels
from edgemtl.objectives._probability import Probability
from edgemtl.tasks import Task


class EdgeObjective(Probability):
    def weight(self, task: Task, pixels: Pixels) -> float | Tensor:
        stated: float = task.positive  # type: ignore[attr-defined]
        return stated


objective = EdgeObjective()
