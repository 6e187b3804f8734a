"""OpenVINO: GELU of codes as a polynomial.

In the exact form GELU has 256 arguments, the codes' values, and its results are rounded to codes again: whatever gives
the same codes for all of them is the same function. OpenVINO's own, good to 1e-7 for any argument, takes half of the
time that is spent between a Transformer block's two layers. Here it is

    max(x, 0) - p(min(|x|, end))

with the polynomial p of the lowest degree that is far enough from every tie between two codes.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from edgemtl.targets.openvino.nodes import constant, of_kind, readers, supersede

ENDS = np.arange(2.5, 6.1, 0.5)  # where GELU may count as its argument or as zero
DEGREES = range(3, 9)  # more would save nothing
AWAY = 2.0**-9  # of the step between two codes: how far from a tie a result must be, some fifty times float32's error


class Polynomial(NamedTuple):
    """Of u = min(|x|, end): the sum of factors[k] * u ** (k + 1)."""

    end: float
    factors: np.ndarray  # float32

    def gelu(self, x: np.ndarray) -> np.ndarray:
        """What it makes of GELU, in float32."""
        u, sum = np.minimum(np.abs(x), np.float32(self.end)), np.float32(0)
        for factor in self.factors[::-1]:
            sum = (sum + factor) * u
        return np.asarray(np.maximum(x, 0) - sum)


def by_polynomials(model: Any) -> int:
    """Rewrites every GELU between two quantizers, in place; how many."""
    return sum(_rewrite(node) for node in of_kind(model, "Gelu"))


def polynomial(values: np.ndarray, step: float, shift: float) -> Polynomial | None:
    """The one for GELU of these float32 values, where the result plus `shift` is rounded to multiples of `step`."""
    x = values.astype(np.float64)
    exact = x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    wanted = np.round((exact + shift) / step)
    for degree in DEGREES:
        fitted = [_fit(x, exact, end, degree) for end in ENDS]
        away = [_away((one.gelu(values).astype(np.float64) + shift) / step, wanted) for one in fitted]
        if max(away) >= AWAY:
            return fitted[int(np.argmax(away))]
    return None


def _fit(x: np.ndarray, exact: np.ndarray, end: float, degree: int) -> Polynomial:
    u = np.minimum(np.abs(x), end)
    powers = u[:, None] ** np.arange(1, degree + 1)
    return Polynomial(end, np.linalg.lstsq(powers, np.maximum(x, 0) - exact, rcond=None)[0].astype(np.float32))


def _away(got: np.ndarray, wanted: np.ndarray) -> float:
    """How far results, in steps, are from where they would be rounded to other codes than wanted; below 0 beyond."""
    return float((0.5 - np.abs(got - wanted)).min())


def _rewrite(node: Any) -> bool:
    from openvino import opset13 as op

    shift, after = 0.0, readers(node)
    if len(after) == 1 and after[0].get_type_name() == "Add":
        added = [constant(value) for value in after[0].input_values() if constant(value) is not None]
        if len(added) != 1 or added[0].size != 1:
            return False
        shift, after = float(added[0].item()), readers(after[0])
    if len(after) != 1 or node.get_attributes()["approximation_mode"] != "ERF":
        return False
    values, results = _values(node.input_value(0).get_node()), _values(after[0])
    if values is None or results is None:
        return False
    found = polynomial(values, float(results[1]) - float(results[0]), shift)
    if found is None:
        return False
    x = node.input_value(0)
    u = op.minimum(op.abs(x), op.constant(np.float32(found.end)))
    *lower, highest = found.factors
    sum = op.multiply(u, op.constant(highest))
    for factor in lower[::-1]:
        sum = op.multiply(op.add(sum, op.constant(factor)), u)
    supersede(node, op.subtract(op.relu(x), sum))
    return True


def _values(node: Any) -> np.ndarray | None:
    """All values that a quantizer of one scale gives; None for what is no such quantizer."""
    if node.get_type_name() != "FakeQuantize":
        return None
    low, high = (constant(value) for value in node.input_values()[3:])
    if low is None or high is None or low.size != 1 or high.size != 1:
        return None
    levels = node.get_attributes()["levels"]
    return np.linspace(float(low.ravel()[0]), float(high.ravel()[0]), levels).astype(np.float32)
