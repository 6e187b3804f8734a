"""The optimizer of a recipe, and its learning rate as a pure function of the iteration."""

import math

import torch
from torch import nn

from edgemtl.networks import purposes
from edgemtl.records.recipe import Training


def optimizer(network: nn.Module, training: Training, balance: nn.Module | None = None) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW. The backbone has a factor on the rate; norms and biases (1-D) have no weight decay.

    The parameters of `balance` have neither a factor nor weight decay. Adam's decay is a part of the gradient.
    """
    backbone = {id(p) for module in purposes.having(network, purposes.BACKBONE) for p in module.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in backbone, parameter.ndim > 1), []).append(parameter)
    options = [
        {
            "params": parameters,
            "factor": training.backbone_rate if inside else 1.0,
            "weight_decay": training.weight_decay if decays else 0.0,
        }
        for (inside, decays), parameters in groups.items()
    ]
    learned = list(balance.parameters()) if balance else []
    if learned:
        options.append({"params": learned, "factor": 1.0, "weight_decay": 0.0})
    if training.optimizer == "sgd":
        return torch.optim.SGD(options, lr=training.rate, momentum=training.momentum, fused=True)
    kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return kind(options, lr=training.rate, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, training: Training, iteration: int) -> float:
    """Sets every group's rate for the step after `iteration` finished ones; gives back the rate without factors."""
    now = rate(training, iteration)
    for group in optimizer.param_groups:
        group["lr"] = now * group["factor"]
    return now


def rate(training: Training, iteration: int) -> float:
    """The learning rate of the step after `iteration` finished ones.

    poly: rate * (1 - iteration / iterations) ** power in steps of `rate_every` iterations, times a linear warm-up.
    one-cycle: half a cosine up from rate / 25 over the warm-up, half a cosine down to 0 over the rest (after Smith and
    Topin, arXiv:1708.07120).
    """
    total, warm = training.iterations, training.warmup * training.iterations
    if training.schedule == "poly":
        left = 1 - (iteration - iteration % training.rate_every) / total
        return training.rate * left**training.power * min(1.0, (iteration + 1) / max(warm, 1.0))
    if iteration < warm:
        return training.rate * (1 + 24 * _rise(iteration / warm)) / 25
    return training.rate * (1 - _rise((iteration - warm) / (total - warm)))


def _rise(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


@torch.no_grad()
def average(into: nn.Module, network: nn.Module, decay: float, iteration: int) -> None:
    """Moves the averaged weights towards the network's: `into` = decay * `into` + (1 - decay) * network.

    The decay starts lower, (1 + iteration) / (10 + iteration), so that short runs forget their first weights too.
    Floating-point buffers (BatchNorm's statistics) are averaged alike, counters copied.
    """
    decay = min(decay, (1 + iteration) / (10 + iteration))
    pairs = list(zip(into.state_dict().values(), network.state_dict().values(), strict=True))
    moving = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
    torch._foreach_lerp_([mine for mine, _ in moving], [theirs for _, theirs in moving], 1 - decay)
    for mine, theirs in pairs:
        if not mine.is_floating_point():
            mine.copy_(theirs)
