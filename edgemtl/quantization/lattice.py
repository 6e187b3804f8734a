"""What is known of a tensor before it is computed: the power of two that its values are multiples of, and their bounds.

float32 holds such values exactly as long as the bounds are below 2**24 of that power.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

Array = np.ndarray


@dataclass(frozen=True)
class Value:
    """What is known of a tensor: its values are phase + k * unit, between low and high, each () or (C,) along axis 1.

    `error` is how far computed values may lie from these. A function of few codes has its `values` instead. A quotient
    is such a number divided by a whole one, `over` at the most; its error is relative. A value of which nothing is
    known has unit 0. `islands` are those that it depends on.
    """

    unit: Array
    low: Array
    high: Array
    phase: Array = field(default_factory=lambda: np.zeros(()))
    error: float = 0.0
    values: Array | None = None
    over: float = 1.0
    islands: frozenset[str] = frozenset()

    @property
    def listed(self) -> bool:
        """Whether it is a function of few codes or a quotient: something else than a lattice is known of it."""
        return self.values is not None or self.over > 1

    @property
    def known(self) -> bool:
        return not self.listed and bool((self.unit > 0).all())

    @property
    def exact(self) -> bool:
        return self.known and self.error == 0

    @property
    def on_grid(self) -> bool:
        """Whether its values are exact multiples of the unit, without a constant."""
        return self.exact and bool((self.phase == 0).all())

    @property
    def bits(self) -> float:
        """log2 of the largest whole number that it is, of the finest power of two that all of it are multiples of."""
        fine = np.minimum(self.unit, power(self.phase))
        return float(np.log2(np.maximum(np.maximum(np.abs(self.low), np.abs(self.high)) / fine, 1)).max())

    @property
    def shifted(self) -> bool:
        """Whether its channels have different constants."""
        return bool((self.phase != self.phase.flat[0]).any())

    def joined(self) -> "Value":
        """The same with channels put together, all of which have one constant."""
        assert not self.shifted
        phase = np.asarray(self.phase.flat[0])
        return replace(self, unit=np.min(self.unit), low=np.min(self.low), high=np.max(self.high), phase=phase)


def exact(unit: Any, low: Any, high: Any, islands: frozenset[str], phase: Any = 0.0) -> Value:
    """An exact value of these bounds."""
    unit, low, high, phase = (np.asarray(x, np.float64) for x in (unit, low, high, phase))
    return Value(unit, low, high, np.mod(phase, unit), islands=islands)


def constant(tensor: torch.Tensor) -> Value:
    """A constant tensor as a value."""
    array = tensor.double().numpy()
    return exact(np.min(power(array)), array.min(), array.max(), frozenset())


def power(values: Any, axis: int | None = None) -> Array:
    """The largest power of two that float32 numbers are all multiples of; infinite for zeros. One for each index of an
    axis, or in all."""
    array = np.asarray(values, np.float64)
    mantissa, exponent = np.frexp(array)
    whole = np.abs(mantissa * 2.0**53).astype(np.int64)
    lowest = whole & -whole
    with np.errstate(divide="ignore"):
        units = np.where(whole == 0, np.inf, lowest * 2.0**-53 * np.exp2(exponent.astype(np.float64)))
    if axis is None:
        return np.asarray(units.min()) if array.ndim > 1 else units
    return units.min(tuple(i for i in range(array.ndim) if i != axis))


def per_channel(number: Any) -> Array:
    """A constant as () or, of shape (1, C, 1, 1), as (C,); of any other shape with two axes or more."""
    array = number.double().numpy() if isinstance(number, torch.Tensor) else np.asarray(number, np.float64)
    if array.size == 1:
        return array.reshape(())
    if array.ndim == 4 and array.shape[0] == array.shape[2] == array.shape[3] == 1:
        return array.reshape(-1)
    return np.atleast_2d(array)


def products(x: Value, weight: torch.Tensor, groups: int) -> tuple[Array, Array, Array]:
    """Of each output channel's sums, without bias: unit (infinite without weights), smallest, largest."""
    w = weight.double().numpy()
    out, each = w.shape[:2]
    low, high, unit = (np.broadcast_to(a, (each * groups,)).reshape(groups, each) for a in (x.low, x.high, x.unit))
    low, high = np.minimum(low, 0), np.maximum(high, 0)  # borders are padded with zeros
    flat = w.reshape(groups, out // groups, each, -1)
    up, down = np.maximum(flat, 0).sum(3), np.minimum(flat, 0).sum(3)
    top = np.einsum("goe,ge->go", up, high) + np.einsum("goe,ge->go", down, low)
    bottom = np.einsum("goe,ge->go", up, low) + np.einsum("goe,ge->go", down, high)
    fine = power(flat.reshape(out, each, -1), 0).reshape(groups, -1) * unit.min(1, keepdims=True)
    return fine.ravel(), bottom.ravel(), top.ravel()


def rounds_alike(x: Value, step: float, low: int, high: int) -> bool:
    """Whether every runtime rounds the values to the same multiples of `step`, low to high: none may lie at a tie."""
    if x.values is not None:
        return margin(x.values / step + 0.5) > x.error / step
    if x.over > 1:  # beyond the last tie all are rounded alike
        apart = min(float(np.min(x.unit)), step / 2) / x.over  # quotients and ties, where they are not equal
        shift = float(np.max(np.abs(x.phase)))
        return min(shift, apart - shift) > x.error * max(-low, high) * step
    return x.known and _from_ties(x, step) > x.error


def margin(values: Array) -> float:
    """How far values are from the next whole number, at the least."""
    return float(np.abs(values - np.round(values)).min())


def _from_ties(x: Value, step: float) -> float:
    """How far a lattice is from the ties of a quantizer; infinite for exact values, which all runtimes round alike."""
    if x.error == 0:
        return math.inf
    unit = min(float(np.min(x.unit)), step)
    away = np.mod(np.asarray(x.phase) - step / 2, unit)
    return float(np.minimum(away, unit - away).min())
