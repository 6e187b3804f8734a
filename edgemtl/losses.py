"""One loss per task, as in the DeMT, MQTransformer and ATRC code; pixels without a label never count.

raw (B, C, h, w) is brought to its label's size first. A batch without a single valid pixel gives zero.
"""

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.recipe import Losses
from edgemtl.tasks import Task

IGNORED = 255


def _semseg(raw: Tensor, label: Tensor, task: Task, options: Losses) -> Tensor:
    weight = torch.tensor(options.class_weights, device=raw.device) if options.class_weights else None
    total = F.cross_entropy(raw, label, weight, ignore_index=IGNORED, reduction="sum")
    return total / (label != IGNORED).sum().clamp(min=1)


def _human_parts(raw: Tensor, label: Tensor, task: Task, options: Losses) -> Tensor:
    return F.cross_entropy(raw, label, ignore_index=IGNORED, reduction="sum") / (label != IGNORED).sum().clamp(min=1)


def _sal(raw: Tensor, label: Tensor, task: Task, options: Losses) -> Tensor:
    """Balanced by each batch's share of negatives; two channels (softmax) or one (sigmoid)."""
    valid = label != IGNORED
    positive = (label == 1) & valid
    share = (valid.sum() - positive.sum()) / valid.sum().clamp(min=1)
    logit = raw[:, 1:] - raw[:, :1] if raw.shape[1] == 2 else raw
    each = F.binary_cross_entropy_with_logits(logit, positive.float(), reduction="none")
    return (each * torch.where(positive, share, 1 - share))[valid].sum() / valid.sum().clamp(min=1)


def _edge(raw: Tensor, label: Tensor, task: Task, options: Losses) -> Tensor:
    """Weight w on edge pixels, 1 - w on the others."""
    valid = label != IGNORED
    positive = (label == 1) & valid
    w: float = task.positive  # type: ignore[attr-defined]
    each = F.binary_cross_entropy_with_logits(raw, positive.float(), reduction="none")
    return (each * torch.where(positive, w, 1 - w))[valid].sum() / valid.sum().clamp(min=1)


def _depth(raw: Tensor, label: Tensor, task: Task, options: Losses) -> Tensor:
    """Mean absolute error in metres, plus `depth_square` times half the mean squared error."""
    valid = label > 0
    error = (raw - label)[valid]
    count = valid.sum().clamp(min=1)
    return error.abs().sum() / count + 0.5 * options.depth_square * error.square().sum() / count


def _normals(raw: Tensor, label: Tensor, task: Task, options: Losses) -> Tensor:
    """L1 of the unit vectors, summed over the three components, per valid pixel."""
    valid = label.abs().sum(1, keepdim=True) > 0
    each = (F.normalize(raw, dim=1) - label).abs().sum(1, keepdim=True)
    return each[valid].sum() / valid.sum().clamp(min=1)


BY_TASK: dict[str, Callable[[Tensor, Tensor, Task, Losses], Tensor]] = {
    "semseg": _semseg, "human_parts": _human_parts, "sal": _sal, "edge": _edge, "depth": _depth, "normals": _normals,
}  # fmt: skip


def losses(
    raw: dict[str, Tensor], labels: dict[str, Tensor], tasks: dict[str, Task], options: Losses
) -> dict[str, Tensor]:
    """The unweighted loss of every task, float32 scalars."""
    done = {}
    for name, task in tasks.items():
        size = labels[name].shape[-2:]
        x = raw[name].float()
        x = x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
        done[name] = BY_TASK[name](x, labels[name], task, options)
    return done
