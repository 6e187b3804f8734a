"""Scores of a live network during training."""

import math
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import Subset

from edgemtl.device.evaluate import Scores, take_scores
from edgemtl.ground import show
from edgemtl.ground.stop import Stop, Stopped
from edgemtl.networks.prepare import Deployed
from edgemtl.networks.session import TorchSession
from edgemtl.records.recipe import Recipe
from edgemtl.tasks import Task


def validate(network: nn.Module, samples: Any, recipe: Recipe, fabric: Fabric, stop: Stop) -> Scores:
    """Every task's scores over a split, in float32; Stopped if somebody asked any process to stop.

    The processes share the frames and take them in step, so that none waits for another longer than a frame takes. All
    return the scores of the first process' network.
    """
    processes, device = fabric.world_size, fabric.device
    if processes > 1:
        for value in network.state_dict().values():
            torch.distributed.broadcast(value, 0)
    part = Subset(samples, range(fabric.global_rank, len(samples), processes))
    rounds = -(-len(samples) // processes)
    tasks = {name: task.quick() for name, task in recipe.tasks.items()}
    session = TorchSession(Deployed(network, recipe.size, recipe.map_stride), device)

    def go_on() -> None:
        request = torch.tensor(float(stop.asked), device=device)
        if processes > 1:
            torch.distributed.all_reduce(request)
        if request > 0:
            raise Stopped

    def in_step(frame: np.ndarray) -> dict[str, np.ndarray]:
        go_on()
        return session(frame)

    meters = {name: task.meter() for name, task in tasks.items()}
    if len(part):
        quiet = not fabric.is_global_zero
        meters = take_scores(in_step, part, recipe.model_copy(update={"tasks": tasks}), title="validate", quiet=quiet)
    for _ in range(len(part), rounds):  # the others have one frame more
        go_on()
    if processes > 1:
        every: list[Any] = [None] * processes
        torch.distributed.all_gather_object(every, meters)
        meters = every[0]
        for others in every[1:]:
            for name, meter in meters.items():
                meter.add(others[name])
    return {name: meter.scores() for name, meter in meters.items()}


def merit(scores: Scores, tasks: dict[str, Task]) -> float:
    """One number to choose checkpoints by: the mean logarithm of the headline scores, negated where lower is better.

    To first order, the difference of two merits is the mean relative gain (delta-m) of one over the other, for any
    baseline. -inf if a score is no positive number.
    """
    logs = []
    for name, task in tasks.items():
        value = scores[name][task.headline]
        if not (value > 0 and math.isfinite(value)):
            return -math.inf
        logs.append(math.log(value) if task.higher_is_better else -math.log(value))
    return sum(logs) / len(logs)


def show_scores(title: str, scores: Scores, best: Scores, tasks: dict[str, Task]) -> None:
    """Prints every task's scores, the headline first, beside those of the best checkpoint."""
    rows = []
    for name, task in tasks.items():
        for key in sorted(scores[name], key=lambda key: key != task.headline):
            unit = task.unit if key == task.headline else ""  # a task states the unit of its headline alone
            rows.append((f"{name}.{key}", scores[name][key], best[name][key], unit))
    show.table(title, ("score", "now", "best", "unit"), rows)
