"""Looking on while a network runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def watching(
    modules: Iterable[nn.Module], before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Meanwhile `before` gets each module and its inputs when it runs, `after` these and its output.

    What `after` gives back, unless None, takes the output's place.
    """
    modules = list(modules)
    hooks = [module.register_forward_pre_hook(before) for module in modules] if before else []
    hooks += [module.register_forward_hook(after) for module in modules] if after else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
