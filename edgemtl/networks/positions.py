"""Where a deformable operator of the exact form reads without its learned offsets, in few numbers.

Such a position is the pixel's own plus what the offset network's last layer makes of the pixel's row (in the first half
of the groups) or of its column (in the second). That layer is 3x3 and finds zeros beside the map: so all inner columns,
or rows, of a group have the same. Tables of the first, an inner and the last one hold all of it.

They are in pixels, whole eighths or quarters, times two; so are sums, which float32 therefore holds exactly. A position
in GridSample's coordinates is such a sum over the map's width or height, rounded once.
"""

import numpy as np

Array = np.ndarray
Tables = tuple[Array, Array]  # (groups, 2, h, 3) and (other groups, 2, 3, w), x and y
PARTS = 64  # of a pixel: positions are whole ones of these
NEAR = 2.0**-20  # relative, how far stored positions may be from those of their tables, which are rounded once


def tables(base: Array, first: int) -> Tables:
    """The tables nearest to positions (groups, 2, h, w), of which the `first` groups go by rows."""
    height, width = base.shape[2:]
    beside = _beside(base)
    nearest = beside[:first][..., _first(picked(width))], beside[first:][:, :, _first(picked(height))]
    if (np.abs(spread(nearest, height, width) - base) > NEAR * np.maximum(np.abs(base), 1)).any():
        raise ValueError("places that no offset network has")
    return nearest


def exact_tables(base: Array) -> Tables | None:
    """The tables of these very positions (groups, 2, h, w), to the last bit, whichever groups go by rows; or None."""
    if base.dtype != np.float32 or base.ndim != 4 or base.shape[1] != 2 or len(base) < 2:
        return None
    height, width = base.shape[2:]
    beside, columns = _beside(base), picked(width)
    by_row = (beside == beside[..., _first(columns)][..., columns]).all((1, 2, 3))
    try:
        nearest = tables(base, len(base) if by_row.all() else int(by_row.argmin()))
    except ValueError:
        return None
    return nearest if np.array_equal(spread(nearest, height, width), base) else None


def _beside(base: Array) -> Array:
    """What positions have beside the pixels' own, in the tables' unit."""
    height, width = base.shape[2:]
    at = np.round(base.astype(np.float64) * sizes(height, width) * PARTS) / PARTS
    return np.asarray((at - own(height, width)).astype(np.float32))


def spread(tables: Tables, height: int, width: int) -> Array:
    """The positions (groups, 2, h, w), float32, that tables stand for."""
    rows, columns = tables
    beside = np.concatenate([rows[..., picked(width)], columns[:, :, picked(height)]])
    return (beside + own(height, width)) / sizes(height, width)


def own(height: int, width: int) -> Array:
    """Where each pixel is, (1, 2, h, w), in the tables' unit and from the middle of the map."""
    columns, rows = (np.arange(1 - n, n, 2).astype(np.float32) for n in (width, height))
    return np.stack(np.broadcast_arrays(columns[None], rows[:, None]))[None]


def picked(length: int) -> Array:
    """Which of the first, inner and last one each row or column takes."""
    return np.minimum(np.arange(length), 1) + (np.arange(length) == length - 1) * (length > 2)


def _first(picked: Array) -> Array:
    """Where a table's entries are found; of maps of fewer than three pixels there are fewer."""
    return np.unique(picked, return_index=True)[1]


def sizes(height: int, width: int) -> Array:
    """What sums are divided by, (1, 2, 1, 1)."""
    return np.array([width, height], np.float32).reshape(1, 2, 1, 1)
