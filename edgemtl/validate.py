"""Scores of a live network during training."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from edgemtl import show
from edgemtl.evaluate import Scores, score
from edgemtl.frames import fit
from edgemtl.prepare import Deployed
from edgemtl.recipe import Recipe
from edgemtl.stop import Stop, Stopped
from edgemtl.tasks import Task

EDGE_THRESHOLDS = 9  # instead of 99: enough to choose a checkpoint by, and boundary matching takes an eleventh


def validate(network: nn.Module, samples: Any, recipe: Recipe, device: torch.device, stop: Stop) -> Scores:
    """Every task's scores over a split, in float32; Stopped where `stop` was asked meanwhile."""
    tasks = dict(recipe.tasks)
    if "edge" in tasks:
        tasks["edge"] = tasks["edge"].model_copy(update={"thresholds": EDGE_THRESHOLDS})
    deployed = Deployed(network, recipe.size, recipe.map_stride).to(device).eval()

    @torch.no_grad()
    def predict(frame: np.ndarray) -> dict[str, np.ndarray]:
        if stop.asked:
            raise Stopped
        batch = torch.from_numpy(fit(frame, recipe.size, recipe.fit)).to(device)[None].permute(0, 3, 1, 2).float()
        return {name: map[0].cpu().numpy() for name, map in deployed(batch).items()}

    return score(predict, samples, tasks, size=recipe.size, how=recipe.fit, title="validate")


def merit(scores: Scores, tasks: dict[str, Task]) -> float:
    """One number to choose checkpoints by: the mean logarithm of the headline scores, negated where lower is better.

    The difference of two merits is, to first order, the mean relative gain (delta-m) of one over the other, whatever
    the baseline. -inf where a score is no positive number.
    """
    logs = []
    for name, task in tasks.items():
        value = scores[name][task.headline]
        if not (value > 0 and math.isfinite(value)):
            return -math.inf
        logs.append(math.log(value) if task.higher_is_better else -math.log(value))
    return sum(logs) / len(logs)


def report(title: str, scores: Scores, best: Scores, tasks: dict[str, Task]) -> None:
    """Prints every task's scores, the headline first, beside those of the best checkpoint."""
    rows = []
    for name, task in tasks.items():
        for key in sorted(scores[name], key=lambda key: key != task.headline):
            unit = task.unit if key == task.headline else ""  # a task states the unit of its headline alone
            rows.append((f"{name}.{key}", scores[name][key], best[name][key], unit))
    show.table(title, ("score", "now", "best", "unit"), rows)
