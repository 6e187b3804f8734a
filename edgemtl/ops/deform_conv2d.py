"""Deformable convolution in plain torch: one GridSample, one 1x1 convolution.

Deformable ConvNets (Dai et al., ICCV 2017, https://arxiv.org/abs/1703.06211) and, with a mask, Deformable ConvNets v2
(Zhu et al., CVPR 2019, https://arxiv.org/abs/1811.11168). Signature and results are torchvision's.

`deform_sample` does all work on coordinates, so that it can stay float as a whole.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = int | tuple[int, int]

FARTHEST = 4  # in grid_sample's coordinates, where the map is -1 to 1


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """The convolution (B, O, h, w) of an input (B, C, H, W) read at positions of its own for every output pixel.

    `weight` (O, C / groups, kh, kw) gives the groups. `offset` (B, 2 * G * kh * kw, h, w) gives the G offset groups:
    for each group and kernel tap a row, then a column offset in pixels. `mask` (B, G * kh * kw, h, w) scales what was
    read (v2). Neighbours outside the input count as zero. ValueError where the shapes do not fit together.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    groups = _check(input, offset, weight, bias, stride, padding, dilation, mask)
    kernel = (weight.shape[2], weight.shape[3])
    values = deform_sample(input, offset, kernel, stride, padding, dilation, mask)
    return F.conv2d(values, weight.reshape(weight.shape[0], -1, 1, 1), bias, groups=groups)


def deform_sample(
    input: Tensor,
    offset: Tensor,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """What the kernel's taps read, (B, C * kh * kw, h, w) with the taps of a channel side by side.

    Coordinates are float32 at least, whatever the inputs and autocast; the result has the input's type.
    """
    batch, channels, height, width = input.shape
    h, w = offset.shape[2:]
    taps = kernel[0] * kernel[1]
    groups = offset.shape[1] // (2 * taps)
    wide = torch.promote_types(torch.promote_types(input.dtype, offset.dtype), torch.float32)

    # align_corners=False sends pixel x of W to (2x + 1) / W - 1, which is invertible down to W = 1, where
    # align_corners=True reaches a single position. At +-4 a point is more than one pixel outside a map of any size:
    # the clamp changes no value, and offsets of any magnitude stay within what float32 resolves and int32 holds.
    size = torch.tensor([height, width], dtype=wide, device=input.device).reshape(2, 1, 1)
    place = _positions(kernel, stride, padding, dilation, (h, w), wide, input.device)
    if torch.is_grad_enabled() and (input.requires_grad or offset.requires_grad):
        values = _Read.apply(input, offset.to(wide), (place + 0.5) * (2 / size) - 1)
    else:
        grid = (offset.to(wide).reshape(batch * groups, taps, 2, h, w) + place) * (2 / size) + (1 / size - 1)
        grid = grid.clamp(-FARTHEST, FARTHEST).permute(0, 1, 3, 4, 2).reshape(batch * groups, taps * h, w, 2)
        # The grid keeps torchvision's order (row, column), the reverse of grid_sample's. Swapping the input's axes is a
        # view; stacking the grid the other way round made the operator 3.5 times as slow in OpenVINO, 20 times here.
        folded = input.to(wide).reshape(batch * groups, channels // groups, height, width).transpose(2, 3)
        values = F.grid_sample(folded, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if mask is not None:
        values = values.reshape(batch * groups, -1, taps * h, w) * mask.to(wide).reshape(batch * groups, 1, taps * h, w)
    return values.reshape(batch, channels * taps, h, w).to(input.dtype)


class _Read(torch.autograd.Function):
    """The same for training: (B, C * taps, h, w), equal up to rounding, with less memory and faster copies.

    `place` (taps, 2, h, w) is where each tap reads without an offset, in grid_sample's coordinates, row first. The
    backward pass keeps the input, as the layer that makes the offsets does anyway, and the grid. Networks are
    channels-last, sampling goes channel by channel; torch is several times as fast when each image is transposed as a
    matrix, in which a pixel's row and column offset travel as one complex number.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, offset: Tensor, place: Tensor) -> Tensor:
        (batch, _, height, width), (taps, _, h, w) = input.shape, place.shape
        pairs = _transposed(torch.view_as_complex(_rows(offset).unflatten(2, (-1, 2))))
        row, column = torch.view_as_real(pairs).reshape(-1, taps, h, w, 2).unbind(4)
        grid = torch.empty(*row.shape, 2, dtype=place.dtype, device=place.device)
        torch.add(place[:, 1], column, alpha=2 / width, out=grid[..., 0])
        torch.add(place[:, 0], row, alpha=2 / height, out=grid[..., 1])
        grid = grid.clamp_(-FARTHEST, FARTHEST).reshape(-1, taps * h, w, 2)
        ctx.save_for_backward(input, grid)
        values = F.grid_sample(_folded(input, grid), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        values = values.reshape(batch, -1, h, w)
        return values if input.is_contiguous() else values.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        input, grid = ctx.saved_tensors
        (batch, _, height, width), (h, w) = input.shape, gradients[0].shape[2:]
        bilinear, zeros, wanted = 0, 0, [ctx.needs_input_grad[0], True]
        folded, gradient = _folded(input, grid), _planes(gradients[0]).reshape(len(grid), -1, *grid.shape[1:3])
        of_input, of_grid = torch.ops.aten.grid_sampler_2d_backward(
            gradient, folded, grid, bilinear, zeros, False, wanted
        )
        pairs = torch.empty_like(of_grid)
        torch.mul(of_grid[..., 1], 2 / height, out=pairs[..., 0])
        torch.mul(of_grid[..., 0], 2 / width, out=pairs[..., 1])
        pairs = _transposed(torch.view_as_complex(pairs.reshape(batch, -1, h * w, 2)))
        of_offset = torch.view_as_real(pairs).reshape(batch, h, w, -1).permute(0, 3, 1, 2)
        return torch.empty_like(input).copy_(of_input.reshape(input.shape)) if wanted[0] else None, of_offset, None


def _folded(input: Tensor, grid: Tensor) -> Tensor:
    """The input (B, C, H, W) as one image for each part of the grid, (B * G, C / G, H, W)."""
    return _planes(input).to(grid.dtype).reshape(len(grid), -1, *input.shape[2:])


def _planes(x: Tensor) -> Tensor:
    """The map (B, C, H, W), channel after channel in memory."""
    return x if x.is_contiguous() else _transposed(_rows(x)).reshape(x.shape)


def _rows(x: Tensor) -> Tensor:
    """The pixels of (B, C, H, W), (B, H * W, C), contiguous."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def _transposed(x: Tensor) -> Tensor:
    """(B, N, M), contiguous, of a contiguous (B, M, N)."""
    result = torch.empty(x.shape[0], x.shape[2], x.shape[1], dtype=x.dtype, device=x.device)
    for one, into in zip(x, result, strict=True):
        into.copy_(one.t())
    return result


def _positions(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Where each tap reads without an offset, (kh * kw, 2, h, w), row and column; made of floats from the start."""
    along = [
        torch.arange(k, dtype=dtype, device=device)[:, None] * d + torch.arange(n, dtype=dtype, device=device) * s - p
        for k, s, p, d, n in zip(kernel, stride, padding, dilation, size, strict=True)
    ]
    whole = (*kernel, *size)
    rows, columns = along[0][:, None, :, None].expand(whole), along[1][None, :, None, :].expand(whole)
    return torch.stack([rows, columns], 2).reshape(-1, 2, *size)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> int:
    """The number of weight groups; ValueError for the first shape that does not fit."""
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight), ("mask", mask)):
        if tensor is not None and tensor.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions, got shape {tuple(tensor.shape)}")
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError(f"stride={stride} and dilation={dilation} must be positive, padding={padding} not negative")
    batch, channels = input.shape[:2]
    out, per_group, *kernel = weight.shape
    if per_group == 0 or channels % per_group or out % (channels // per_group):
        raise ValueError(f"weight {tuple(weight.shape)} does not divide an input of {channels} channels into groups")
    if bias is not None and bias.shape != (out,):
        raise ValueError(f"bias must have shape ({out},), got {tuple(bias.shape)}")
    taps = kernel[0] * kernel[1]
    size = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(input.shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    if min(size) < 1:
        raise ValueError(
            f"input {tuple(input.shape[2:])} is smaller than kernel {tuple(kernel)} with dilation {dilation}"
        )
    groups = offset.shape[1] // (2 * taps)
    if groups == 0 or offset.shape[1] % (2 * taps) or channels % groups:
        raise ValueError(
            f"offset has {offset.shape[1]} channels, expected {2 * taps} times a divisor of the input's {channels}"
        )
    for name, tensor, depth in (("offset", offset, 2 * taps * groups), ("mask", mask, taps * groups)):
        if tensor is not None and tensor.shape != (batch, depth, *size):
            raise ValueError(f"{name} must have shape {(batch, depth, *size)}, got {tuple(tensor.shape)}")
    return int(channels // per_group)
