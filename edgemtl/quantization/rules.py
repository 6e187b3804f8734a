"""What an operation gives of the values that it takes, for the proof; a text says why nothing is known of the result.

A rule takes the operation's node and its arguments, of which those that depend on the frame are values of a lattice.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from edgemtl.quantization import quantizers
from edgemtl.quantization.lattice import Array, Value, constant, exact, margin, per_channel, power

FUNCTION = 2.0**-20  # relative error of exp, sigmoid and division in any runtime (WebGPU's exp: 2e-7 times 3 + 2 |x|)
MANY = 1 << 18  # values of a function that are looked at one by one

Result = Value | str


def add(node: fx.Node, a: Any, b: Any, alpha: float = 1, **_: Any) -> Result:
    if alpha != 1:
        return "a scaled sum"
    if not (isinstance(a, Value) and isinstance(b, Value)):
        return _shift(a, b) if isinstance(a, Value) else _shift(b, a)
    if not (a.exact and b.exact):
        return "a sum of what is not exact"
    unit = np.minimum(a.unit, b.unit)
    return exact(unit, a.low + b.low, a.high + b.high, a.islands | b.islands, a.phase + b.phase)


def sub(node: fx.Node, a: Any, b: Any, **_: Any) -> Result:
    if not isinstance(b, Value):
        return _shift(a, -b)
    if not isinstance(a, Value) or not (a.exact and b.exact):
        return "a difference of what is not exact"
    top = a.high - b.low
    source = node.args[1]
    if isinstance(source, fx.Node) and quantizers.called(source) in ("amax", "max") and source.args[0] is node.args[0]:
        top = np.zeros_like(top)
    return exact(np.minimum(a.unit, b.unit), a.low - b.high, top, a.islands | b.islands, a.phase - b.phase)


def _shift(x: Value, number: Any) -> Result:
    """A value plus a constant."""
    by = per_channel(number)
    if by.ndim > 1:
        if not x.exact:
            return "a sum with a constant for each place"
        return exact(np.minimum(x.unit, power(by)), x.low + by.min(), x.high + by.max(), x.islands, x.phase)
    low, high = x.low + by, x.high + by
    if x.values is not None:
        if by.size != 1:
            return "a function with a constant for each pixel"
        values = x.values + float(by.ravel()[0])
        return replace(x, values=values, low=low, high=high, error=x.error + 2.0**-24 * float(np.abs(values).max()))
    if x.over > 1:
        if by.size != 1:
            return "a quotient with a constant for each pixel"
        return replace(x, phase=x.phase + by, low=low, high=high, error=x.error + 2.0**-23)
    if not x.known:
        return "a sum with what is not known"
    error = x.error
    if error:
        error += 2.0**-24 * float(np.maximum(np.abs(x.low), np.abs(x.high)).max())
    unit = x.unit + 0 * by
    return replace(x, unit=unit, phase=np.mod(x.phase + by, unit), low=low, high=high, error=error)


def mul(node: fx.Node, a: Any, b: Any, **_: Any) -> Result:
    if isinstance(a, Value) and isinstance(b, Value):
        if not (a.on_grid and b.on_grid):
            return "a product of what is not exact"
        ends = np.stack([x * y for x in (a.low, a.high) for y in (b.low, b.high)])
        low = np.zeros_like(a.low) if node.args[0] is node.args[1] else ends.min(0)
        return exact(a.unit * b.unit, low, ends.max(0), a.islands | b.islands)
    x, number = (a, b) if isinstance(a, Value) else (b, a)
    by = per_channel(number)
    factors = (by.min(), by.max()) if by.ndim > 1 else (by,)  # another number at each place, or one for each channel
    ends = np.stack([end * factor for end in (x.low, x.high) for factor in factors])
    if x.values is not None and by.size == 1:
        values = x.values * float(by.ravel()[0])
        error = x.error * float(np.abs(by)) + 2.0**-24 * float(np.abs(values).max())
        return replace(x, values=values, low=ends.min(0), high=ends.max(0), error=error)
    if not x.on_grid:
        return "a product with what is not exact"
    return exact(x.unit * power(by), ends.min(0), ends.max(0), x.islands)


def matmul(node: fx.Node, a: Any, b: Any) -> Result:
    if isinstance(a, Value) and isinstance(b, Value):
        if not (a.on_grid and b.on_grid):
            return "a product of what is not exact"
        product = mul(node, a.joined(), b.joined())
        assert isinstance(product, Value)
        count = _shape(node.args[0])[-1]
        return replace(product, low=product.low * count, high=product.high * count)
    x, matrix = (a, b) if isinstance(a, Value) else (b, a)
    if isinstance(matrix, Value) or not x.on_grid:
        return "a product of what is not exact"
    m, axis = matrix.double().numpy(), -1 if matrix is a else -2
    most, least = np.maximum(m, 0).sum(axis).max(), np.minimum(m, 0).sum(axis).min()
    ends = np.stack([x.low * most + x.high * least, x.high * most + x.low * least])
    return exact(x.unit * power(m.ravel()).min(), ends.min(0), ends.max(0), x.islands)


def div(node: fx.Node, a: Any, b: Any, **_: Any) -> Result:
    """A quotient of whole numbers; of small ones by the sum of them all, as a softmax ends, all are looked at."""
    if not (isinstance(a, Value) and isinstance(b, Value) and a.exact and b.exact):
        return "a quotient of what is not exact"
    if not (a.on_grid and b.on_grid):
        return "a quotient of what is no multiple of a power of two"
    islands = a.islands | b.islands
    below = node.args[1]
    if not isinstance(below, fx.Node) or quantizers.called(below) != "sum" or below.args[0] is not node.args[0]:
        a, b = a.joined(), b.joined()
        if b.low <= 0:
            return "a quotient by what may be 0"
        ends = np.stack([end / divisor for end in (a.low, a.high) for divisor in (b.low, b.high)])
        return Value(a.unit / b.unit, ends.min(0), ends.max(0), error=FUNCTION, over=max(float(b.high / b.unit), 2),
                     islands=islands)  # fmt: skip
    unit = min(float(np.min(a.unit)), float(np.min(b.unit)))
    most, whole = round(float(np.max(a.high)) / unit), round(float(np.max(b.high)) / unit)
    if float(np.min(a.low)) < 0 or most * whole > MANY:
        return "a quotient of too many values to look at"
    values = np.unique(np.arange(most + 1)[:, None] / np.arange(1, whole + 1)[None])
    return Value(a.unit, np.zeros(()), np.ones(()), error=FUNCTION, values=values[values <= 1], islands=islands)


def clamp(node: fx.Node, x: Value, low: Any = None, high: Any = None, **_: Any) -> Result:
    low, high = (None if end is None else float(end) for end in (low, high))
    if not x.on_grid:
        return "clips what is not exact"
    unit, bottom, top = x.unit, x.low, x.high
    if low is not None:
        unit, bottom, top = np.minimum(unit, power(low)), np.maximum(bottom, low), np.maximum(top, low)
    if high is not None:
        unit, bottom, top = np.minimum(unit, power(high)), np.minimum(bottom, high), np.minimum(top, high)
    return exact(unit, bottom, top, x.islands)


def move(node: fx.Node, x: Value, *_: Any, **__: Any) -> Result:
    """Values that only change places; but for STILL ones, channels are told apart no longer."""
    before, after = _shape(node.args[0]), _shape(node)
    if quantizers.called(node) in STILL and len(before) == len(after) > 1 and before[1] == after[1]:
        return x
    return "puts channels together that are shifted differently" if x.shifted else x.joined()


def cat(node: fx.Node, parts: list[Any], axis: int = 0) -> Result:
    values = [part if isinstance(part, Value) else constant(part) for part in parts]
    if not all(value.on_grid for value in values):
        return "joins what is not exact"
    islands: frozenset[str] = frozenset().union(*(value.islands for value in values))
    if axis == 1:
        both = [(value, _shape(n)[1]) for value, n in zip(values, node.args[0], strict=True)]  # type: ignore[arg-type]
        unit, low, high = (
            np.concatenate([np.broadcast_to(getattr(value, key), (count,)) for value, count in both])
            for key in ("unit", "low", "high")
        )
        return exact(unit, low, high, islands)
    unit, low = (functools.reduce(np.minimum, (getattr(v, key) for v in values)) for key in ("unit", "low"))
    return exact(unit, low, functools.reduce(np.maximum, (v.high for v in values)), islands)


def pad(node: fx.Node, x: Value, *_: Any, **__: Any) -> Result:
    if not x.on_grid:
        return "pads what is not exact"
    return replace(x, low=np.minimum(x.low, 0), high=np.maximum(x.high, 0))


def resize(node: fx.Node, x: Value, size: Any = None, corners: bool = False, *_: Any) -> Result:
    if not x.exact:
        return "resizes what is not exact"
    if corners:
        return "bilinear between corners has weights that are no fractions of two"
    before, after = _shape(node.args[0])[2:], _shape(node)[2:]
    share = 1.0
    for a, b in zip(before, after, strict=True):
        if a == 2 * b:
            share /= 2
        elif b % a == 0 and math.log2(b // a).is_integer():
            share /= 1 if a == b else 2 * (b // a)
        else:
            return f"bilinear from {before} to {after} has weights that are no fractions of two"
    return replace(x, unit=x.unit * share)


def largest(node: fx.Node, x: Value, *_: Any, **__: Any) -> Result:
    return x if x.exact else "the largest of what is not exact"


def total(node: fx.Node, x: Value, *_: Any, **__: Any) -> Result:
    if not x.on_grid:
        return "a sum of what is not exact"
    before, after = _shape(node.args[0]), _shape(node)
    if len(before) != len(after) or before[1] != after[1]:
        x = x.joined()
    count = math.prod(before) // math.prod(after)
    return exact(x.unit, x.low * count, x.high * count, x.islands)


def argmax(node: fx.Node, x: Value, axis: int | None = None, *_: Any) -> Result:
    if not x.exact or axis != 1:
        return "the largest of what is not exact"
    phases = np.sort(np.mod(np.atleast_1d(x.phase), np.min(x.unit)))
    classes = _shape(node.args[0])[1]
    if len(phases) != classes or not (np.diff(phases) > 0).all():
        return "two classes may be equal, and runtimes choose as they like"
    return exact(1.0, 0.0, classes - 1.0, x.islands)


def function(node: fx.Node, x: Value, **_: Any) -> Result:
    """A function of few codes."""
    of = FUNCTIONS[quantizers.called(node)]
    if not x.exact or x.shifted:
        return "a function of what is not exact"
    x = x.joined()
    unit, low, high, phase = (float(part) for part in (x.unit, x.low, x.high, x.phase))
    if (high - low) / unit > MANY:
        return "a function of too many values to look at"
    points = np.arange(round((low - phase) / unit), round((high - phase) / unit) + 1) * unit + phase
    if of is np.sqrt and points[0] < 0:
        return "a root of what may be negative"
    values = of(points)
    return Value(x.unit, np.asarray(values.min()), np.asarray(values.max()), error=FUNCTION * values.max(),
                 values=values, islands=x.islands)  # fmt: skip


def floor(node: fx.Node, x: Value) -> Result:
    if x.exact:
        return exact(1.0, np.floor(x.low), np.floor(x.high), x.islands)
    if x.values is None or margin(x.values) <= x.error:
        return "rounds down what may lie on either side of a whole number"
    low, high = np.floor([x.values.min(), x.values.max()])
    return exact(1.0, low, high, x.islands)


def _shape(node: Any) -> tuple[int, ...]:
    """Of the tensor that a node gives; () where it gives several."""
    return tuple(getattr(node.meta.get("val"), "shape", ()))


STILL = {
    "_assert_tensor_metadata", "_to_copy", "alias", "clone", "contiguous", "dropout", "slice", "to",
    "upsample_nearest2d",
}  # fmt: skip
MOVING = {
    "reshape", "view", "permute", "transpose", "unflatten", "flatten", "chunk", "split", "split_with_sizes", "select",
    "getitem", "narrow", "unbind", "unsqueeze", "squeeze", "expand", *STILL,
}  # fmt: skip
PLACING = MOVING | {"cat"}  # whose values may be of several grids side by side, too far apart for a sum
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp, "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), "sqrt": np.sqrt,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "softplus": lambda x: np.logaddexp(0, x),
}  # fmt: skip
RULES: dict[str, Callable[..., Result]] = {
    **dict.fromkeys(MOVING, move), **dict.fromkeys(FUNCTIONS, function),
    "add": add, "amax": largest, "argmax": argmax, "cat": cat, "clamp": clamp, "div": div, "floor": floor,
    "hardtanh": lambda node, x, low=-1.0, high=1.0: clamp(node, x, low, high), "matmul": matmul,
    "max_pool2d": largest, "mul": mul, "pad": pad, "relu": lambda node, x: clamp(node, x, 0.0),
    "relu6": lambda node, x: clamp(node, x, 0.0, 6.0), "sub": sub, "sum": total, "upsample_bilinear2d": resize,
}  # fmt: skip
