"""One loss per task, as in the DeMT, MQTransformer and ATRC code; pixels without a label never count.

A loss is a sum over the pixels at hand divided by a count over the whole batch, so that the losses of a batch's parts
(processes, micro-batches) add up to the loss of the batch. A batch without a single valid pixel gives zero.

Multi-Task-Learning-PyTorch, on which MTI-Net and SCA-MTL build, differs in two means, which `Losses` can state; its
cross entropy and its L1 of depth are the same. (It also took ignored pixels for edges and salient ones. Not here.)
"""

from typing import Callable, Mapping, NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.errors import UsageError, unknown
from edgemtl.recipe import Losses, Recipe
from edgemtl.tasks import Task

IGNORED = 255
CLASSES = ("semseg", "human_parts")  # tasks whose label is a class id


class Pixels(NamedTuple):
    """Counts over the whole batch, int64 scalars; `labelled` is at least 1."""

    all: Tensor
    labelled: Tensor
    positive: Tensor  # edge and salient pixels


def _valid(task: Task, label: Tensor) -> Tensor:
    """The pixels that count, by the task's own word, in the label's layout with one channel."""
    known: Tensor = task.valid(label.movedim(1, -1))[:, None] if task.name == "normals" else task.valid(label)
    return known


def _classes(raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
    """Cross entropy, a pixel's weighted by its class where the recipe has weights for the task."""
    weights = options.class_weights.get(task.name)
    weight = torch.tensor(weights, device=raw.device) if weights else None
    # Pixel by pixel, as channels-last maps lie in memory: of maps cross_entropy makes copies, at 2 to 4 times the cost.
    rows = raw.permute(0, 2, 3, 1).flatten(0, 2)
    total = F.cross_entropy(rows, label.flatten(), weight, ignore_index=IGNORED, reduction="sum")
    return total / pixels.labelled


def _sal(raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
    """Balanced by each batch's share of negatives; two channels (softmax) or one (sigmoid)."""
    share = (pixels.labelled - pixels.positive) / pixels.labelled
    return _balanced(raw[:, 1:] - raw[:, :1] if raw.shape[1] == 2 else raw, label, task, share, options, pixels)


def _edge(raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
    """Balanced by the task's own weight of edge pixels."""
    return _balanced(raw, label, task, task.positive, options, pixels)  # type: ignore[attr-defined]


def _balanced(
    logit: Tensor, label: Tensor, task: Task, weight: float | Tensor, options: Losses, pixels: Pixels
) -> Tensor:
    """Binary cross entropy with a weight w on positive pixels and 1 - w on the others."""
    positive = label == 1
    each = F.binary_cross_entropy_with_logits(logit, positive.float(), reduction="none")
    total = (each * torch.where(positive, weight, 1 - weight) * _valid(task, label)).sum()
    return total / (pixels.all if options.bce_mean == "all" else pixels.labelled)


def _depth(raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
    """Mean absolute error in metres, plus `depth_square` times half the mean squared error."""
    error = torch.where(_valid(task, label), raw - label, 0)
    return (error.abs().sum() + 0.5 * options.depth_square * error.square().sum()) / pixels.labelled


def _normals(raw: Tensor, label: Tensor, task: Task, options: Losses, pixels: Pixels) -> Tensor:
    """L1 of the unit vectors, per pixel (summed over the three components) or per component."""
    error = torch.where(_valid(task, label), F.normalize(raw, dim=1) - label, 0)
    return error.abs().sum() / (pixels.labelled if options.normals_mean == "pixels" else 3 * pixels.labelled)


BY_TASK: dict[str, Callable[[Tensor, Tensor, Task, Losses, Pixels], Tensor]] = {
    "semseg": _classes, "human_parts": _classes, "sal": _sal, "edge": _edge, "depth": _depth, "normals": _normals,
}  # fmt: skip


def count(labels: dict[str, Tensor], tasks: dict[str, Task]) -> Tensor:
    """(T, 3) int64: each task's number of pixels, of those with a label, and of positive ones. Counts of parts add."""
    rows = []
    for name, task in tasks.items():
        valid = _valid(task, labels[name])
        positive = (labels[name] == 1).sum() if name in ("edge", "sal") else torch.zeros_like(valid.sum())
        rows.append(torch.stack([torch.full_like(positive, valid.numel()), valid.sum(), positive]))
    return torch.stack(rows)


def check_weights(recipe: Recipe) -> None:
    """UsageError where the recipe's weights are not those of its tasks and of their classes."""
    for name in recipe.tasks:
        if name not in recipe.training.weights:
            raise UsageError(f"training.weights has no {name}; it needs a number for every task")
    for name, weights in recipe.training.losses.class_weights.items():
        if name not in CLASSES:
            raise unknown("task with classes in training.losses.class_weights", name, CLASSES)
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
    https://arxiv.org/abs/2001.06902). `counts` are `count`'s of the whole batch where this is a part of one.
    """
    counts = count(labels, tasks) if counts is None else counts
    done = {}
    for (name, task), (every, labelled, positive) in zip(tasks.items(), counts, strict=True):
        label, maps = labels[name], raw[name]
        pixels = Pixels(every, labelled.clamp(min=1), positive)
        terms = [
            BY_TASK[name](_resized(x.float(), label.shape[-2:]), label, task, options, pixels)
            for x in ([maps] if isinstance(maps, Tensor) else maps)
        ]
        done[name] = torch.stack(terms).sum()
    return done


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
