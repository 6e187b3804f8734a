"""What the evaluator must know of an operation besides its signature."""

from typing import Any, Callable, TypeVar

import torch

Ints = list[int]
Bools = list[bool]
F = G = T = U = torch.Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def gives(what: str) -> Callable[[Function], Function]:
    """Marks a function whose result's type is not a letter of its signature.

    `what` is a parameter that holds a type's name (`output_dtype`) or the type itself (`bool`).
    """

    def mark(function: Function) -> Function:
        vars(function)["gives"] = what
        return function

    return mark


def exact(function: Function) -> Function:
    """Marks a function that only moves or picks values of its inputs, so that its result needs no rounding."""
    vars(function)["exact"] = True
    return function


def require(condition: bool, problem: str) -> None:
    """ValueError with this text unless the condition holds."""
    if not condition:
        raise ValueError(problem)


def choose(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """The value; ValueError where it is none of the allowed ones."""
    require(value in allowed, f"{name}={value!r} is none of {', '.join(allowed)}")
    return value


def along(vector: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """A vector as a tensor of the given rank that lies along one axis."""
    return vector.reshape([-1 if i == axis % rank else 1 for i in range(rank)])
