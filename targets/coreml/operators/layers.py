"""Convolutions, pooling, matrix products, attention and normalisations."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as functional

from edgemtl.targets.coreml.operators._marks import F, G, Ints, T, U, along, choose, exact, require

PADDINGS = ("valid", "custom", "same", "same_lower")


def conv(
    x: F,
    weight: F,
    bias: F | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> F:
    dims = x.ndim - 2
    strides, dilations = strides or [1] * dims, dilations or [1] * dims
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    around = _around(pad_type, pad, x.shape[2:], kernel, strides)
    convolve = _of(dims, "conv")
    if around[::2] == around[1::2]:
        return convolve(x, weight, bias, strides, around[::2], dilations, groups)
    return convolve(_padded(x, around), weight, bias, strides, 0, dilations, groups)


def conv_transpose(
    x: F,
    weight: F,
    bias: F | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> F:
    """Where `output_shape` is larger than the full result, the rest is zero (plus the bias), as in torch."""
    dims = x.ndim - 2
    strides, dilations = strides or [1] * dims, dilations or [1] * dims
    result = _of(dims, "conv_transpose")(x, weight, None, strides, 0, 0, groups, dilations)
    if pad_type == "same":
        spare = [n - d * s for n, d, s in zip(result.shape[2:], x.shape[2:], strides, strict=True)]
        require(min(spare) >= 0, f"pad_type='same' with a kernel smaller than strides={strides}")
        around = [part for n in spare for part in (n // 2, n - n // 2)]
    else:
        choose("pad_type", pad_type, ("valid", "custom", "same"))
        around = _around(pad_type, pad, (), [0] * dims, [])
    crop = [-n for n in around]
    if output_shape is not None:
        require(
            output_shape[:2] == list(result.shape[:2]), f"output_shape={output_shape} of a result {[*result.shape]}"
        )
        for i, length in enumerate(output_shape[2:]):
            crop[2 * i + 1] = length - (result.shape[2 + i] - around[2 * i])
    result = _padded(result, crop)
    return result if bias is None else result + along(bias, 1, result.ndim)


@exact
def max_pool(
    x: F,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> F:
    dims = x.ndim - 2
    strides = strides or [1] * dims
    around = _around(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    pool = _of(dims, "max_pool")
    if ceil_mode:
        return pool(x, kernel_sizes, strides, _symmetric(pad_type, around), 1, True)
    return pool(_padded(x, around, -math.inf), kernel_sizes, strides)


def avg_pool(
    x: F,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> F:
    dims = x.ndim - 2
    strides = strides or [1] * dims
    around = _around(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    pool = _of(dims, "avg_pool")
    if ceil_mode:
        return pool(x, kernel_sizes, strides, _symmetric(pad_type, around), True, not exclude_padding_from_average)
    averaged = pool(_padded(x, around), kernel_sizes, strides)
    if exclude_padding_from_average:
        averaged = averaged / pool(_padded(torch.ones_like(x[:1, :1]), around), kernel_sizes, strides)
    return averaged


def linear(x: T, weight: T, bias: T | None = None) -> T:
    return functional.linear(x, weight, bias)


def matmul(x: T, y: T, transpose_x: bool = False, transpose_y: bool = False) -> T:
    x = x.transpose(-1, -2) if transpose_x and x.ndim > 1 else x
    y = y.transpose(-1, -2) if transpose_y and y.ndim > 1 else y
    return torch.matmul(x, y)


def einsum(values: T, equation: str) -> T:
    """The two documented equations, whatever their letters."""
    letters = dict.fromkeys(c for c in equation if c.isalpha())
    renamed = "".join(chr(97 + list(letters).index(c)) if c in letters else c for c in equation.replace(" ", ""))
    choose("equation", renamed, ("abcd,adce->abce", "abc,cbd->abd"))
    return torch.einsum(renamed, list(values))


def scaled_dot_product_attention(query: F, key: F, value: F, attn_mask: U | None = None) -> F:
    weight = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        weight = weight.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else weight + attn_mask
    return torch.softmax(weight, -1) @ value


# ---- normalisations; variances are of the population


def batch_norm(x: F, mean: F, variance: F, gamma: F | None = None, beta: F | None = None, epsilon: float = 1e-5) -> F:
    normal = (x - along(mean, 1, x.ndim)) / torch.sqrt(along(variance, 1, x.ndim) + epsilon)
    return _affine(normal, gamma, beta, [1])


def instance_norm(x: F, gamma: F | None = None, beta: F | None = None, epsilon: float = 1e-5) -> F:
    return _affine(_standardised(x, list(range(2, x.ndim)), epsilon), gamma, beta, [1])


def layer_norm(
    x: F, axes: Ints | None = None, gamma: F | None = None, beta: F | None = None, epsilon: float = 1e-5
) -> F:
    axes = sorted(a % x.ndim for a in (range(x.ndim) if axes is None else axes))
    if axes == list(range(x.ndim - len(axes), x.ndim)):
        return functional.layer_norm(x, x.shape[axes[0] :], gamma, beta, epsilon)
    return _affine(_standardised(x, axes, epsilon), gamma, beta, axes)


def l2_norm(x: F, epsilon: float = 1e-6) -> F:
    require(x.ndim >= 3, f"x has rank {x.ndim}, less than 3")
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


def _standardised(x: torch.Tensor, axes: Ints, epsilon: float) -> torch.Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + epsilon)


def _affine(x: torch.Tensor, gamma: G | None, beta: G | None, axes: Ints) -> torch.Tensor:
    shape = [n if i in axes else 1 for i, n in enumerate(x.shape)]
    x = x if gamma is None else x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


# ---- what several of them need


def _of(dims: int, name: str) -> Any:
    """torch's function of this name for so many spatial axes."""
    return getattr(functional, f"{name}{dims}d")


def _around(pad_type: str, pad: Ints | None, size: Any, kernel: Ints, strides: Ints) -> Ints:
    """How much to pad before and after each spatial axis."""
    choose("pad_type", pad_type, PADDINGS)
    if pad_type == "custom":
        require(pad is not None and len(pad) == 2 * len(kernel), f"pad={pad} with pad_type='custom'")
        return list(pad or [])
    require(not any(pad or []), f"pad={pad} with pad_type={pad_type!r}")  # "if and only if pad_type == custom"
    if pad_type == "valid":
        return [0] * 2 * len(kernel)
    around = []
    for n, k, s in zip(size, kernel, strides, strict=True):
        total = max(0, (-(-n // s) - 1) * s + k - n)  # so that ceil(n / s) windows fit
        around += [total // 2, total - total // 2] if pad_type == "same" else [total - total // 2, total // 2]
    return around


def _symmetric(pad_type: str, around: Ints) -> Ints:
    require(pad_type in ("valid", "custom"), f"ceil_mode with pad_type={pad_type!r}")
    require(around[::2] == around[1::2], f"ceil_mode with pad={around}, which is not symmetric")
    return around[::2]


def _padded(x: torch.Tensor, around: Ints, value: float = 0.0) -> torch.Tensor:
    """Padded, or cut where `around` is negative."""
    if not any(around):
        return x
    pairs = [around[i : i + 2] for i in range(0, len(around), 2)]
    return functional.pad(x, [n for pair in reversed(pairs) for n in pair], value=value)
