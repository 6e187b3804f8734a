"""Less memory for a training step: what a block keeps for the backward pass is computed again there.

Chen, Xu, Zhang and Guestrin, Training Deep Nets with Sublinear Memory Cost, 2016, https://arxiv.org/abs/1604.06174.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def recompute(network: nn.Module, context: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
    """Makes every block of a network keep only its inputs, in place.

    `context` gives what the forward pass runs in, such as an autocast. Losses, gradients and BatchNorm's statistics
    stay what they are without it, on a CPU to the last bit.
    """
    for block in _blocks(network):
        block.forward = partial(_forward, block, block.forward, context)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in a row of their like, or that a task has for itself, with layers inside."""
    for child in module.children():
        if isinstance(module, CONTAINERS) and not isinstance(child, CONTAINERS) and any(True for _ in child.children()):
            yield child
        else:
            yield from _blocks(child)


def _forward(
    block: nn.Module, forward: Callable[..., Any], context: Callable[[], AbstractContextManager[Any]], *inputs: Any
) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _again(block, context)))


@contextmanager
def _again(block: nn.Module, context: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """The second pass: BatchNorms have seen the batch already, so their running statistics stay."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        with context():
            yield
    finally:
        for norm, (momentum, count) in zip(norms, kept):
            norm.momentum, norm.num_batches_tracked = momentum, count
