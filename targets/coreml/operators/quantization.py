"""Eight-bit activations, and weights that are stored compressed and decoded when the program is loaded."""

from __future__ import annotations

import math

import torch

from edgemtl.targets.coreml.operators._marks import F, Ints, T, U, along, exact, gives, require

RANGES = {"int8": (-128, 127, torch.int8), "uint8": (0, 255, torch.uint8)}


@gives("output_dtype")
def quantize(
    input: F, scale: F, output_dtype: str, zero_point: T | None = None, axis: int | None = None
) -> torch.Tensor:
    """clip(round(input / scale) + zero_point).

    Ties are taken to go to even integers, as in the documentation's `round`. torch multiplies by 1 / scale instead of
    dividing, so a value within a rounding error of a tie may get the neighbouring code there.
    """
    require(output_dtype in RANGES, f"output_dtype={output_dtype!r} is none of {', '.join(RANGES)}")
    low, high, dtype = RANGES[output_dtype]
    scale, zero_point = _scales(input, scale, zero_point, axis)
    require(zero_point is None or zero_point.dtype == dtype, f"zero_point is no {output_dtype}")
    codes = torch.round(input / scale)
    if zero_point is not None:
        codes = codes + zero_point
    return codes.clamp(low, high).to(dtype)


def dequantize(input: T, scale: F, zero_point: T | None = None, axis: int | None = None) -> F:
    """scale * (input - zero_point)."""
    scale, zero_point = _scales(input, scale, zero_point, axis)
    value = input.float()
    return scale * (value if zero_point is None else value - zero_point)


def constexpr_affine_dequantize(quantized_data: T, zero_point: U, scale: F, axis: int) -> F:
    """scale * (quantized_data - zero_point), each a scalar or a vector along `axis`."""
    rank, length = quantized_data.ndim, quantized_data.shape[axis]
    for name, tensor in (("scale", scale), ("zero_point", zero_point)):
        require(tensor.ndim == 0 or tensor.shape == (length,), f"{name} {[*tensor.shape]} along an axis of {length}")
    _positive(scale)
    at = [t.float() if t.ndim == 0 else along(t.float(), axis, rank) for t in (scale, zero_point)]
    return at[0] * (quantized_data.float() - at[1])


def constexpr_blockwise_shift_scale(data: T, scale: F, offset: U | None = None) -> F:
    """scale * (data - offset), each element of scale and offset for a block of the data."""
    require(data.ndim == scale.ndim, f"data of rank {data.ndim} with scale of rank {scale.ndim}")
    require(all(n % k == 0 for n, k in zip(data.shape, scale.shape)), f"scale {[*scale.shape]} of {[*data.shape]}")
    require(offset is None or offset.shape == scale.shape, "offset and scale differ in shape")
    _positive(scale)
    value = data.float()
    value = value if offset is None else value - _spread(offset.float(), data.shape)
    return _spread(scale, data.shape) * value


@exact
def constexpr_lut_to_dense(indices: U, lut: T, shape: Ints | None = None, vector_axis: int | None = None) -> T:
    """Values looked up by index: indices packed into bytes with a `shape` (iOS 16), or one by one (iOS 18)."""
    if shape is not None:
        require(lut.ndim == 1 and lut.numel() in (2, 4, 16, 64, 256), f"lut {[*lut.shape]}")
        bits, count = int(math.log2(lut.numel())), math.prod(shape)
        unpacked = (indices.long()[:, None] >> torch.arange(8)) & 1  # least significant bit first
        require(unpacked.numel() >= bits * count, f"{indices.numel()} bytes of indices for shape={shape}")
        places = unpacked.reshape(-1)[: bits * count].reshape(count, bits) << torch.arange(bits)
        return lut[places.sum(1)].reshape(shape)
    require(lut.ndim == indices.ndim + 2 and lut.shape[-1] == 1, f"lut {[*lut.shape]} of indices {[*indices.shape]}")
    tables = lut.shape[:-2]
    require(all(n % k == 0 for n, k in zip(indices.shape, tables)), f"lut {[*lut.shape]} of {[*indices.shape]}")
    table = _spread(torch.arange(math.prod(tables)).reshape(tables), indices.shape)
    return lut.reshape(-1)[table * lut.shape[-2] + indices.long()]


@exact
@gives("output_dtype")
def constexpr_cast(source_val: U, output_dtype: str) -> torch.Tensor:
    require(output_dtype == "fp32", f"output_dtype={output_dtype!r} is not fp32")
    return source_val


def _scales(
    input: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, axis: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale and zero point as they broadcast; ValueError where they do not go with the axis."""
    _positive(scale)
    require(zero_point is None or zero_point.ndim == scale.ndim, "scale and zero_point differ in rank")
    if scale.ndim == 0:
        require(axis is None, f"axis={axis} with a scalar scale")
        return scale, zero_point
    require(axis is not None, "a vector of scales without an axis")
    assert axis is not None
    for tensor in (scale, zero_point):
        require(tensor is None or tensor.shape == (input.shape[axis],), f"scales along axis={axis} of {[*input.shape]}")
    return along(scale, axis, input.ndim), None if zero_point is None else along(zero_point, axis, input.ndim)


def _positive(scale: torch.Tensor) -> None:
    """Core ML refuses to compile a scale of 0 or less."""
    require(bool((scale > 0).all()), "a scale is not positive")


def _spread(blocks: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Each element repeated over its block, so that the result has this shape."""
    for axis, n in enumerate(shape):
        blocks = blocks.repeat_interleave(n // blocks.shape[axis], axis)
    return blocks
