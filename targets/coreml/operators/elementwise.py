"""Arithmetic, comparisons and activations, element by element, and reductions along axes."""

from __future__ import annotations

import math
from typing import Any, Callable

import torch
import torch.nn.functional as functional

from edgemtl.targets.coreml.operators._marks import F, G, Ints, T, U, along, choose, exact, gives, require

# ---- two tensors, broadcast as NumPy does


def _binary(compute: Any) -> Callable[[T, T], T]:
    def apply(x: T, y: T) -> T:
        return compute(x, y)

    return apply


add, sub, mul = map(_binary, (torch.add, torch.sub, torch.mul))
floor_div = _binary(torch.floor_divide)  # rounded towards minus infinity
mod = _binary(torch.remainder)  # with the divisor's sign, as Python's operator, which goes with floor_div
maximum, minimum = exact(_binary(torch.maximum)), exact(_binary(torch.minimum))
equal, not_equal, greater, greater_equal, less, less_equal = (
    gives("bool")(_binary(compare)) for compare in (torch.eq, torch.ne, torch.gt, torch.ge, torch.lt, torch.le)
)
logical_and, logical_or, logical_xor = map(_binary, (torch.logical_and, torch.logical_or, torch.logical_xor))


def real_div(x: F, y: F) -> F:
    return x / y


def pow_(x: F, y: F) -> F:
    return torch.pow(x, y)


@exact
def select(cond: U, a: T, b: T) -> T:
    require(cond.dtype == torch.bool, "cond is not boolean")
    return torch.where(cond, a, b)


# ---- one tensor


def _unary(compute: Any) -> Callable[[T], T]:
    def apply(x: T) -> T:
        return compute(x)

    return apply


abs_, sign, ceil, floor = exact(_unary(torch.abs)), exact(_unary(torch.sign)), _unary(torch.ceil), _unary(torch.floor)
acos, asin, atan, cos, sin, tanh = map(_unary, (torch.acos, torch.asin, torch.atan, torch.cos, torch.sin, torch.tanh))
erf, exp, exp2, sqrt, square = map(_unary, (torch.erf, torch.exp, torch.exp2, torch.sqrt, torch.square))
logical_not, sigmoid, silu = map(_unary, (torch.logical_not, torch.sigmoid, functional.silu))
relu, relu6 = exact(_unary(torch.relu)), exact(_unary(functional.relu6))
round_ = _unary(torch.round)  # to the nearest integer; 0.5 becomes 0, so ties are taken to go to even ones
softplus = _unary(lambda x: torch.logaddexp(x, torch.zeros_like(x)))
softsign = _unary(functional.softsign)


@exact
def identity(x: T) -> T:
    return x


def inverse(x: F, epsilon: float = 1e-4) -> F:
    return 1 / (x + epsilon)


def log(x: F, epsilon: float = 1e-45) -> F:
    return torch.log(x + epsilon)


def rsqrt(x: F, epsilon: float = 1e-12) -> F:
    return 1 / torch.sqrt(x + epsilon)


@exact
def clip(x: F, alpha: float, beta: float) -> F:
    require(alpha < beta, f"alpha={alpha:g} is not less than beta={beta:g}")  # which iOS 17 refuses
    return torch.clamp(x, alpha, beta)


@exact
def threshold(x: T, alpha: float) -> T:
    return torch.clamp(x, min=alpha)


@gives("dtype")
def cast(x: T, dtype: str) -> torch.Tensor:
    """Floats become integers by truncation, as in NumPy and torch; the documentation does not say."""
    if dtype in ("fp16", "fp32"):
        return x.float()  # the evaluator rounds to float16
    return x.to({"int32": torch.int32, "int8": torch.int8, "uint8": torch.uint8, "bool": torch.bool}[dtype])


def gelu(x: F, mode: str = "EXACT") -> F:
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    choose("mode", mode, ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def clamped_relu(x: F, alpha: float, beta: float) -> F:
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


def elu(x: F, alpha: float) -> F:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


def leaky_relu(x: F, alpha: float) -> F:
    return torch.where(x >= 0, x, alpha * x)


def linear_activation(x: F, alpha: float, beta: float) -> F:
    return alpha * x + beta


def prelu(x: F, alpha: G) -> F:
    return torch.where(x > 0, x, along(alpha, 1, x.ndim) * x)


def scaled_tanh(x: F, alpha: float, beta: float) -> F:
    return alpha * torch.tanh(beta * x)


def sigmoid_hard(x: F, alpha: float, beta: float) -> F:
    return (alpha * x + beta).clamp(0, 1)


def thresholded_relu(x: F, alpha: float) -> F:
    return torch.where(x >= alpha, x, torch.zeros_like(x))


def softmax(x: F, axis: int = -1) -> F:
    return torch.softmax(x, axis)


# ---- reductions


def _reduction(compute: Callable[[torch.Tensor, Ints, bool], torch.Tensor]) -> Callable[..., T]:
    def reduce(x: T, axes: Ints | None = None, keep_dims: bool = False) -> T:
        return compute(x, list(range(x.ndim)) if axes is None else axes, keep_dims)

    return reduce


def _float_reduction(compute: Callable[[torch.Tensor, Ints, bool], torch.Tensor]) -> Callable[..., F]:
    def reduce(x: F, axes: Ints | None = None, keep_dims: bool = False) -> F:
        return compute(x, list(range(x.ndim)) if axes is None else axes, keep_dims)

    return reduce


def _sum(x: torch.Tensor, axes: Ints, keep_dims: bool) -> torch.Tensor:
    return x.sum(axes, keep_dims, dtype=x.dtype)


reduce_max, reduce_min = exact(_reduction(torch.amax)), exact(_reduction(torch.amin))
reduce_sum = _reduction(_sum)
reduce_l1_norm = _reduction(lambda x, *how: _sum(x.abs(), *how))
reduce_sum_square = _reduction(lambda x, *how: _sum(x.square(), *how))
reduce_mean, reduce_log_sum_exp = _float_reduction(torch.mean), _float_reduction(torch.logsumexp)
reduce_l2_norm = _float_reduction(lambda x, *how: _sum(x.square(), *how).sqrt())


def _first(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The first of equal extremes; the documentation guarantees none of them."""

    def find(x: T, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> torch.Tensor:
        return compute(x, axis, keep_dims).to(torch.int32)

    return gives("output_dtype")(find)


reduce_argmax, reduce_argmin = _first(torch.argmax), _first(torch.argmin)
