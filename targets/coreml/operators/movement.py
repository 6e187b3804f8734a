"""Operations that move values: other shapes, other orders, parts and repetitions."""

from __future__ import annotations

import math

import torch

from edgemtl.targets.coreml.operators._marks import Bools, Ints, T, U, choose, exact, gives, require


@exact
def reshape(x: T, shape: Ints) -> T:
    """A 0 stands for the input's size, counted from the last axis (iOS 17), or 1 where the input has no such axis."""
    missing = len(shape) - x.ndim
    sizes = [(x.shape[i - missing] if i >= missing else 1) if n == 0 else n for i, n in enumerate(shape)]
    return x.reshape(sizes)


@exact
def transpose(x: T, perm: Ints) -> T:
    return x.permute(perm)


@exact
def expand_dims(x: T, axes: Ints) -> T:
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@exact
def squeeze(x: T, axes: Ints | None = None) -> T:
    """Axes longer than 1 stay, as in torch."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@exact
def concat(values: T, axis: int, interleave: bool = False) -> T:
    require(not interleave, "interleave=True is not known here")
    return torch.cat(list(values), axis)


@exact
def stack(values: T, axis: int) -> T:
    return torch.stack(list(values), axis)


@exact
def split(x: T, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> T:
    if split_sizes is None:
        require(num_splits is not None, "neither num_splits nor split_sizes")
        assert num_splits is not None
        length = x.shape[axis]
        require(length % num_splits == 0, f"num_splits={num_splits} of an axis of {length}")
        split_sizes = [length // num_splits] * num_splits
    require(num_splits in (None, len(split_sizes)), f"num_splits={num_splits} with split_sizes={split_sizes}")
    return x.split(split_sizes, axis)


@exact
def tile(x: T, reps: Ints) -> T:
    require(len(reps) == x.ndim and min(reps) > 0, f"reps={reps} of rank {x.ndim}")
    return x.repeat(reps)


@exact
def reverse(x: T, axes: Ints | None = None) -> T:
    return x.flip(list(range(x.ndim)) if axes is None else axes)


@exact
def slice_by_index(
    x: T,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> T:
    rank = x.ndim
    stride = stride or [1] * rank
    begin_mask, end_mask = begin_mask or [False] * rank, end_mask or [False] * rank
    squeeze_mask = squeeze_mask or [False] * rank
    require(len(begin) == len(end) == len(stride) == rank, f"begin={begin} and end={end} of rank {rank}")
    for axis, n in enumerate(x.shape):
        if squeeze_mask[axis]:
            require(-n <= begin[axis] < n, f"begin={begin} is outside of {list(x.shape)}")
            x = x.narrow(axis, begin[axis] % n, 1)
            continue
        masked = begin_mask[axis] or end_mask[axis]
        # NumPy would start at the other end, the documentation says 0.
        require(stride[axis] > 0 or not masked, f"stride={stride} with a mask")
        first, last = None if begin_mask[axis] else begin[axis], None if end_mask[axis] else end[axis]
        chosen = range(n)[slice(first, last, stride[axis])]
        if chosen != range(n):
            plain = chosen.step == 1
            x = x.narrow(axis, chosen.start, len(chosen)) if plain else x.index_select(axis, torch.tensor(chosen))
    sizes = [n for n, gone in zip(x.shape, squeeze_mask) if not gone]
    return x.reshape(sizes)


@exact
def slice_by_size(x: T, begin: Ints, size: Ints) -> T:
    """A size of -1 takes all that is left."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        first = first + x.shape[axis] if first < 0 else first
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


@exact
def pad(x: T, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> T:
    """`pad` before and after each of the last axes; "reflect" leaves the edge's own value out."""
    choose("mode", mode, ("constant", "reflect", "replicate"))
    require(len(pad) % 2 == 0 and len(pad) <= 2 * x.ndim and min(pad, default=0) >= 0, f"pad={pad} of rank {x.ndim}")
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    if mode == "constant":
        return torch.nn.functional.pad(x, [n for pair in reversed(pairs) for n in pair], value=constant_val)
    for axis, (before, after) in enumerate(pairs, x.ndim - len(pairs)):
        n = x.shape[axis]
        at = torch.arange(-before, n + after)
        if mode == "replicate":
            at = at.clamp(0, n - 1)
        else:
            require(max(before, after) < n, f"pad={pad} reflects beyond an axis of {n}")
            at = (n - 1) - ((n - 1) - at.abs()).abs()
        x = x.index_select(axis, at)
    return x


@exact
def gather(x: T, indices: U, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> T:
    require(batch_dims == 0, f"batch_dims={batch_dims} is not known here")
    _inside(indices, x.shape[axis])
    axis %= x.ndim
    rows = x.index_select(axis, indices.reshape(-1).long())
    return rows.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@exact
def gather_along_axis(x: T, indices: U, axis: int = 0, validate_indices: bool = False) -> T:
    _inside(indices, x.shape[axis])
    return x.gather(axis, indices.long())


def _inside(indices: torch.Tensor, length: int) -> None:
    """Since iOS 17 negative ones are out of bounds, and what is read there is undefined."""
    low, high = (int(n) for n in torch.aminmax(indices)) if indices.numel() else (0, 0)
    require(low >= 0 and high < length, f"indices {low}..{high} of an axis of {length}")


@exact
def pixel_shuffle(x: T, upscale_factor: int) -> T:
    return torch.pixel_shuffle(x, upscale_factor)


@exact
def pixel_unshuffle(x: T, downscale_factor: int) -> T:
    return torch.pixel_unshuffle(x, downscale_factor)


@gives("int32")
def shape(x: T) -> torch.Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@exact
def fill(shape: Ints, value: T) -> T:
    return value.reshape(()).expand(shape)


def cumsum(x: T, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> T:
    require(not exclusive and not reverse, "an exclusive or reverse cumsum is not known here")
    return x.cumsum(axis, dtype=x.dtype)


def band_part(x: T, lower: int = -1, upper: int = -1) -> T:
    rows, columns = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
    below, above = (bound if bound >= 0 else math.inf for bound in (lower, upper))
    return x * ((rows - columns <= below) & (columns - rows <= above))
