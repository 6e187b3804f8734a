"""Edges: binary cross entropy, balanced by the task's own weight of edge pixels."""

from torch import Tensor

from edgemtl.objectives import Pixels
from edgemtl.objectives._probability import ProbabilityObjective
from edgemtl.tasks import Task
from edgemtl.tasks.edge import Edge


class EdgeObjective(ProbabilityObjective):
    def weight(self, task: Task, pixels: Pixels) -> float | Tensor:
        assert isinstance(task, Edge)
        return task.positive


objective = EdgeObjective()
