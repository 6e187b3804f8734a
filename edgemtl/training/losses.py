"""One loss per task, as in the DeMT, MQTransformer and ATRC code; pixels without a label never count.

A loss is a sum over the pixels at hand divided by a count over the whole batch, so that the losses of a batch's parts
(processes, micro-batches) add up to the loss of the batch. A batch without a single valid pixel gives zero.

Multi-Task-Learning-PyTorch, on which MTI-Net and SCA-MTL build, differs in two means, which `Losses` can state; its
cross entropy and its L1 of depth are the same. (It also took ignored pixels for edges and salient ones. Not here.)
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl import objectives
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError, unknown
from edgemtl.objectives import Pixels
from edgemtl.records.recipe import Losses, Recipe
from edgemtl.tasks import Task


def count_pixels(labels: dict[str, Tensor], tasks: dict[str, Task]) -> Tensor:
    """(T, 3) int64: each task's number of pixels, of those with a label, and of positive ones. Counts of parts add."""
    rows = []
    for name, task in tasks.items():
        objective, label = objectives.of(name), labels[name]
        valid, positive = objective.valid(label, task), objective.positive(label)
        rows.append(torch.stack([torch.full_like(positive, valid.numel()), valid.sum(), positive]))
    return torch.stack(rows)


def check_weights(recipe: Recipe) -> None:
    """UsageError where the recipe's weights are not those of its tasks and of their classes."""
    for name in recipe.tasks:
        if name not in recipe.training.weights:
            raise UsageError(f"training.weights has no {name}; it needs a number for every task")
    allowed = [name for name in registry.names("objectives") if objectives.of(name).weighted]
    for name, weights in recipe.training.losses.class_weights.items():
        if name not in allowed:
            raise unknown("task with classes in training.losses.class_weights", name, allowed)
        if weights and name in recipe.tasks and len(weights) != recipe.tasks[name].channels:
            raise UsageError(
                f"training.losses.class_weights has {len(weights)} numbers for {name}, which has"
                f" {recipe.tasks[name].channels} classes"
            )


def losses(
    raw: Mapping[str, Tensor | Sequence[Tensor]],
    labels: dict[str, Tensor],
    tasks: dict[str, Task],
    options: Losses,
    counts: Tensor | None = None,
) -> dict[str, Tensor]:
    """The unweighted loss of every task, float32 scalars.

    raw: {task: (B, C, h, w)}, brought to the label's size first, or a list of such maps per task: a network's final
    one and those of its deep supervision, whose losses are summed (Vandenhende et al., MTI-Net, ECCV 2020,
    https://arxiv.org/abs/2001.06902). `counts`: `count_pixels` of the whole batch, where
    these labels are a part of it.
    """
    counts = count_pixels(labels, tasks) if counts is None else counts
    sums = {}
    for (name, task), (every, labelled, positive) in zip(tasks.items(), counts, strict=True):
        label, maps = labels[name], raw[name]
        pixels = Pixels(every, labelled.clamp(min=1), positive)
        terms = [
            objectives.of(name).loss(_resized(x.float(), label.shape[-2:]), label, task, options, pixels)
            for x in ([maps] if isinstance(maps, Tensor) else maps)
        ]
        sums[name] = torch.stack(terms).sum()
    return sums


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
