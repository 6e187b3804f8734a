"""Maps read between their pixels: resizing by the documented grid points, and `resample` at given coordinates."""

from __future__ import annotations

import functools

import numpy as np
import torch

from edgemtl.targets.coreml.operators._marks import F, G, Ints, T, choose, exact, require

SAMPLING = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")
COORDINATE_MODES = ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one")
PADDINGS = ("constant", "border", "reflection", "symmetric")


def upsample_bilinear(
    x: F,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> F:
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    require(not (align_corners and half), "align_corners=True with half_pixel_centers=True")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    return _resized(x, _scaled(x, scale_factor_height, scale_factor_width), mode)


def resize_bilinear(x: F, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT") -> F:
    return _resized(x, [target_size_height, target_size_width], sampling_mode)


def resize(
    x: F, shape: Ints, resized_dims: int, interpolation_mode: str = "LINEAR", sampling_mode: str = "DEFAULT"
) -> F:
    # Of the nearest of two equally near pixels the documentation does not say which.
    require(interpolation_mode == "LINEAR", f"interpolation_mode={interpolation_mode!r} is not LINEAR")
    require(0 < resized_dims <= len(shape) <= x.ndim, f"resized_dims={resized_dims} of shape={shape}")
    sizes = shape[-resized_dims:]
    return _resized(x, [n or old for n, old in zip(sizes, x.shape[-resized_dims:])], sampling_mode)


@exact
def upsample_nearest_neighbor(x: T, scale_factor_height: float = 1, scale_factor_width: float = 1) -> T:
    """Output pixel i is taken to show input pixel floor(i * input / output), as in torch."""
    return _nearest(x, _scaled(x, scale_factor_height, scale_factor_width))


@exact
def resize_nearest_neighbor(x: T, target_size_height: int, target_size_width: int) -> T:
    """Output pixel i is taken to show input pixel floor(i * input / output), as in torch."""
    return _nearest(x, [target_size_height, target_size_width])


def resample(
    x: F,
    coordinates: G,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> F:
    """x (B, C, H, W) read at coordinates (B, h, w, 2) of (column, row).

    The image is taken as surrounded by `padding_value`, so a point outside blends it with the edge, as in torch. Of the
    two nearest pixels at the same distance the one with the even index is taken, as in torch.
    """
    choose("sampling_mode", sampling_mode, ("bilinear", "nearest"))
    choose("padding_mode", padding_mode, PADDINGS)
    choose("coordinates_mode", coordinates_mode, COORDINATE_MODES)
    if padding_mode == "constant" and coordinates_mode == "normalized_minus_one_to_one":
        # The common case, several times as fast in torch's own kernel.
        sampled = torch.nn.functional.grid_sample(
            x - padding_value if padding_value else x, coordinates, sampling_mode, "zeros", align_corners
        )
        return sampled + padding_value if padding_value else sampled
    height, width = x.shape[2:]
    columns = _pixels(coordinates[..., 0], width, coordinates_mode, align_corners)
    rows = _pixels(coordinates[..., 1], height, coordinates_mode, align_corners)
    if sampling_mode == "nearest":
        return _read(x, rows.round(), columns.round(), padding_mode, padding_value)
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    upper, lower = (
        _read(x, row, left, padding_mode, padding_value) * (1 - right)
        + _read(x, row, left + 1, padding_mode, padding_value) * right
        for row in (top, top + 1)
    )
    return upper * (1 - down) + lower * down


def _pixels(at: torch.Tensor, length: int, mode: str, align_corners: bool) -> torch.Tensor:
    """Coordinates along one axis as indices of pixels, whose centres lie at the integers."""
    if mode == "unnormalized":
        return at.float()
    share = (at.float() + 1) / 2 if mode == "normalized_minus_one_to_one" else at.float()
    return share * (length - 1) if align_corners else share * length - 0.5


def _read(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, mode: str, value: float) -> torch.Tensor:
    """Pixels (B, C, h, w) of x at whole rows and columns (B, h, w), which may lie outside."""
    height, width = x.shape[2:]
    row, column = (_inside(at, n, mode) for at, n in ((rows, height), (columns, width)))
    flat = (row * width + column).reshape(x.shape[0], 1, -1).expand(-1, x.shape[1], -1)
    values = x.flatten(2).gather(2, flat).reshape(*x.shape[:2], *rows.shape[1:])
    if mode == "constant":
        outside = (rows < 0) | (rows > height - 1) | (columns < 0) | (columns > width - 1)
        values = values.masked_fill(outside[:, None], value)
    return values


def _inside(at: torch.Tensor, length: int, mode: str) -> torch.Tensor:
    """The index within the axis that stands for one anywhere."""
    if mode in ("reflection", "symmetric"):
        # |1, 2, 3| continues as 2, 1 or, symmetrically, as 3, 2, 1.
        period = 2 * length if mode == "symmetric" else max(2 * length - 2, 1)
        at = at.remainder(period)
        at = torch.minimum(at, (period - 1 if mode == "symmetric" else period) - at)
    return at.nan_to_num().clamp(0, length - 1).long()


def _scaled(x: torch.Tensor, height: float, width: float) -> Ints:
    """Sizes by scale factors, multiplied in float32, in which the factors are stored: 48 * 1.6666666 is 80."""
    return [int(np.floor(np.float32(n) * np.float32(s))) for n, s in zip(x.shape[-2:], (height, width))]


def _nearest(x: torch.Tensor, sizes: Ints) -> torch.Tensor:
    for axis, length in zip((-2, -1), sizes):
        x = x.index_select(axis, torch.arange(length) * x.shape[axis] // length)
    return x


def _resized(x: torch.Tensor, sizes: Ints, mode: str) -> torch.Tensor:
    """Linear between the two pixels around each grid point, one of the last axes after the other."""
    choose("sampling_mode", mode, SAMPLING)
    for axis, length in zip(range(-len(sizes), 0), sizes):
        low, high, share = _grid(x.shape[axis], length, mode)
        share = share.reshape([-1] + [1] * (-axis - 1))
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


@functools.cache
def _grid(source: int, target: int, mode: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pixels before and after each grid point and how far it is on the way, (made,) each."""
    i = np.arange(target)
    if mode == "ALIGN_CORNERS" and target == 1:
        at = np.array([(source - 1) / 2])
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        at = i * ((source - 1) / max(target - 1, 1))
    elif mode == "DEFAULT":
        at = i * (source / target)
    elif mode == "OFFSET_CORNERS":
        at = (i + 0.5) * (max(1, source - 1) / target)
    else:
        at = (i + 0.5) * (source / target) - 0.5
    at = at.clip(0, source - 1)
    low = np.floor(at).astype(np.int64)
    share = torch.from_numpy((at - low).astype(np.float32))
    return torch.from_numpy(low), torch.from_numpy(np.minimum(low + 1, source - 1)), share
