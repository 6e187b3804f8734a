"""Arithmetic, comparisons and activations, element by element, and reductions along axes."""

from __future__ import annotations

import math
from typing import Callable

import torch

from edgemtl.targets.coreml.operators._marks import F, G, Ints, T, U, along, choose, exact, gives, require

# ---- two tensors, broadcast as NumPy does


def _binary(name: str, compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[T, T], T]:
    def apply(x: T, y: T) -> T:
        return compute(x, y)

    apply.__name__ = name
    return apply


add = _binary("add", torch.add)
sub = _binary("sub", torch.sub)
mul = _binary("mul", torch.mul)
floor_div = _binary("floor_div", torch.floor_divide)  # rounded towards minus infinity
mod = _binary("mod", torch.remainder)  # with the divisor's sign, as Python's operator, which goes with floor_div
maximum = exact(_binary("maximum", torch.maximum))
minimum = exact(_binary("minimum", torch.minimum))
equal = gives("bool")(_binary("equal", torch.eq))
not_equal = gives("bool")(_binary("not_equal", torch.ne))
greater = gives("bool")(_binary("greater", torch.gt))
greater_equal = gives("bool")(_binary("greater_equal", torch.ge))
less = gives("bool")(_binary("less", torch.lt))
less_equal = gives("bool")(_binary("less_equal", torch.le))
logical_and = _binary("logical_and", torch.logical_and)
logical_or = _binary("logical_or", torch.logical_or)
logical_xor = _binary("logical_xor", torch.logical_xor)


def real_div(x: F, y: F) -> F:
    return x / y


def pow_(x: F, y: F) -> F:
    return torch.pow(x, y)


@exact
def select(cond: U, a: T, b: T) -> T:
    require(cond.dtype == torch.bool, "cond is not boolean")
    return torch.where(cond, a, b)


# ---- one tensor


def _unary(name: str, compute: Callable[[torch.Tensor], torch.Tensor], documented: str) -> Callable[[T], T]:
    def apply(x: T) -> T:
        return compute(x)

    apply.__name__, apply.__doc__ = name, documented
    return apply


abs_ = exact(_unary("abs", torch.abs, "|x|."))
acos = _unary("acos", torch.acos, "Inverse cosine.")
asin = _unary("asin", torch.asin, "Inverse sine.")
atan = _unary("atan", torch.atan, "Inverse tangent.")
ceil = _unary("ceil", torch.ceil, "Towards plus infinity.")
cos = _unary("cos", torch.cos, "Cosine.")
erf = _unary("erf", torch.erf, "Gauss' error function.")
exp = _unary("exp", torch.exp, "e**x.")
exp2 = _unary("exp2", torch.exp2, "2**x.")
floor = _unary("floor", torch.floor, "Towards minus infinity.")
logical_not = _unary("logical_not", torch.logical_not, "Not x.")
relu = exact(_unary("relu", torch.relu, "max(x, 0)."))
relu6 = exact(_unary("relu6", torch.nn.functional.relu6, "min(max(x, 0), 6)."))
round_ = _unary("round", torch.round, "To the nearest integer; 0.5 becomes 0, so ties are taken to go to even ones.")
sigmoid = _unary("sigmoid", torch.sigmoid, "1 / (1 + e**-x).")
sign = exact(_unary("sign", torch.sign, "-1, 0 or 1."))
silu = _unary("silu", torch.nn.functional.silu, "x * sigmoid(x).")
sin = _unary("sin", torch.sin, "Sine.")
softplus = _unary("softplus", lambda x: torch.logaddexp(x, torch.zeros_like(x)), "log(1 + e**x).")
softsign = _unary("softsign", torch.nn.functional.softsign, "x / (1 + |x|).")
sqrt = _unary("sqrt", torch.sqrt, "Square root.")
square = _unary("square", torch.square, "x**2.")
tanh = _unary("tanh", torch.tanh, "Hyperbolic tangent.")


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


def _axes(x: torch.Tensor, axes: Ints | None) -> Ints:
    return list(range(x.ndim)) if axes is None else axes


def reduce_sum(x: T, axes: Ints | None = None, keep_dims: bool = False) -> T:
    return x.sum(_axes(x, axes), keep_dims, dtype=x.dtype)


def reduce_mean(x: F, axes: Ints | None = None, keep_dims: bool = False) -> F:
    return x.mean(_axes(x, axes), keep_dims)


@exact
def reduce_max(x: T, axes: Ints | None = None, keep_dims: bool = False) -> T:
    return x.amax(_axes(x, axes), keep_dims)


@exact
def reduce_min(x: T, axes: Ints | None = None, keep_dims: bool = False) -> T:
    return x.amin(_axes(x, axes), keep_dims)


def reduce_l1_norm(x: T, axes: Ints | None = None, keep_dims: bool = False) -> T:
    return x.abs().sum(_axes(x, axes), keep_dims, dtype=x.dtype)


def reduce_l2_norm(x: F, axes: Ints | None = None, keep_dims: bool = False) -> F:
    return x.square().sum(_axes(x, axes), keep_dims).sqrt()


def reduce_sum_square(x: T, axes: Ints | None = None, keep_dims: bool = False) -> T:
    return x.square().sum(_axes(x, axes), keep_dims, dtype=x.dtype)


def reduce_log_sum_exp(x: F, axes: Ints | None = None, keep_dims: bool = False) -> F:
    return x.logsumexp(_axes(x, axes), keep_dims)


@gives("output_dtype")
def reduce_argmax(x: T, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> torch.Tensor:
    """The first of equal maxima; the documentation guarantees none of them."""
    return x.argmax(axis, keep_dims).to(torch.int32)


@gives("output_dtype")
def reduce_argmin(x: T, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> torch.Tensor:
    """The first of equal minima; the documentation guarantees none of them."""
    return x.argmin(axis, keep_dims).to(torch.int32)
