"""The deformable convolution in other forms than one GridSample, for runtimes in which they are faster.

Every form has `deform_conv2d`'s arguments and results. Sampling is linear in the map and goes channel by channel, so
that weights and sampling may change places where all channels that a weight sums are read at the same positions:

    y_o(p) = sum over taps t and channels c of w_oct * x_c(p + t + offset_g(c),t)

The sum over c can go inside where g(c), the offset group, is the same for all channels of o's weight group: where the
number of offset groups divides the number of groups. Then taps * O maps are sampled instead of taps * C. Otherwise
every offset group needs maps of its own, G times as many; DeMT's operator has a group of offsets per channel and one
weight group, so its weights stay behind the sampling. A mask scales what was read and changes nothing in this; the
bias is added at the end, since outside the map it would be read as zero.
"""

from typing import Any, Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.ops.deform_conv2d import Pair, _check, _pair, deform_conv2d, deform_sample


def per_tap(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """A GridSample and a 1x1 convolution for each of the kernel's taps, summed: (B, O, h, w).

    No map is larger than the input's channels times the output's size.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    groups = _check(input, offset, weight, bias, stride, padding, dilation, mask)
    kh, kw = map(int, weight.shape[2:])  # in a trace they are tensors
    batch, _, h, w = offset.shape
    offsets = offset.reshape(batch, -1, kh * kw, 2, h, w)
    masks = None if mask is None else mask.reshape(batch, -1, kh * kw, h, w)
    total = None
    for tap in range(kh * kw):
        u, v = divmod(tap, kw)
        shifted = (padding[0] - u * dilation[0], padding[1] - v * dilation[1])
        own = None if masks is None else masks[:, :, tap]
        read = deform_sample(input, offsets[:, :, tap].reshape(batch, -1, h, w), (1, 1), stride, shifted, mask=own)
        part = F.conv2d(read, weight[:, :, u : u + 1, v : v + 1], bias if total is None else None, groups=groups)
        total = part if total is None else total + part
    assert total is not None
    return total


def weights_first(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """A 1x1 convolution to O maps for each tap, one GridSample of these, their sum over the taps: (B, O, h, w).

    ValueError where the number of offset groups does not divide the number of groups (see above).
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    groups = _check(input, offset, weight, bias, stride, padding, dilation, mask)
    out, per_group, kh, kw = map(int, weight.shape)  # in a trace they are tensors
    taps, (batch, depth, h, w) = kh * kw, offset.shape
    parts = depth // (2 * taps)
    if not commutes(groups, parts):
        raise ValueError(f"{parts} offset groups do not divide {groups} groups: the weights cannot go first")
    by_tap = weight.reshape(groups, out // groups, per_group, taps).permute(0, 3, 1, 2)
    maps = F.conv2d(input, by_tap.reshape(taps * out, per_group, 1, 1), groups=groups)
    if groups != parts:  # the weight groups that share offsets, side by side for each tap
        split = maps.reshape(batch, parts, groups // parts, taps, out // groups, *maps.shape[2:])
        maps = split.transpose(2, 3).reshape(maps.shape)
    rows = torch.arange(kh, dtype=offset.dtype, device=offset.device).repeat_interleave(kw) * dilation[0]
    columns = torch.arange(kw, dtype=offset.dtype, device=offset.device).repeat(kh) * dilation[1]
    at = torch.stack([rows, columns], 1).reshape(1, 1, 2 * taps, 1, 1)
    moved = (offset.reshape(batch, parts, 2 * taps, h, w) + at).reshape(offset.shape)
    read = deform_sample(maps, moved, (1, 1), stride, padding, mask=mask)
    total = read.reshape(batch, parts, taps, -1, h, w).sum(2).reshape(batch, out, h, w)
    return total if bias is None else total + bias[:, None, None]


def native(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """ONNX's own operator, DeformConv, in an export of opset 19 or later; elsewhere `deform_conv2d`."""
    if bias is None:
        bias = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
    made: Tensor = _native(input, offset, weight, bias, mask, _pair(stride), _pair(padding), _pair(dilation))
    return made


@torch.library.custom_op("edgemtl::deform_conv2d", mutates_args=())
def _native(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    first, second, third = ((each[0], each[1]) for each in (stride, padding, dilation))
    return deform_conv2d(input, offset, weight, bias, first, second, third, mask)


def _symbolic(g: Any, input: Any, offset: Any, weight: Any, bias: Any, mask: Any, *where: Any) -> Any:
    from torch.onnx.symbolic_helper import _get_const, _is_none

    stride, padding, dilation = (_get_const(each, "is", "pair") for each in where)
    out, per_group, *kernel = weight.type().sizes()
    batch, depth, *size = offset.type().sizes()
    made = g.op(
        "DeformConv", input, weight, offset, bias, *([] if _is_none(mask) else [mask]), kernel_shape_i=kernel,
        strides_i=stride, pads_i=padding * 2, dilations_i=dilation, group_i=input.type().sizes()[1] // per_group,
        offset_group_i=depth // (2 * kernel[0] * kernel[1]),
    )  # fmt: skip
    return made.setType(input.type().with_sizes([batch, out, *size]))


torch.onnx.register_custom_op_symbolic("edgemtl::deform_conv2d", _symbolic, 19)


def commutes(groups: int, offset_groups: int) -> bool:
    """Whether the weights may go before the sampling without more maps than taps * O."""
    return groups % offset_groups == 0


FORMS: dict[str, Callable[..., Tensor]] = {
    "grid-sample": deform_conv2d,
    "per-tap": per_tap,
    "weights-first": weights_first,
}
