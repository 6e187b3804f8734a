"""How far an artifact's maps may lie from those of the torch model it was made from. NumPy only."""

from typing import Any, NamedTuple

import numpy as np

from edgemtl.records.artifact import Manifest
from edgemtl.records.target import load_target


class Bounds(NamedTuple):
    """How far an artifact's maps may lie from torch's."""

    rms: float  # RMS difference, as a share of the reference's standard deviation
    largest: float  # largest difference of one value, as a share of the reference's range
    agreement: float  # least share of pixels with the same class


# fp32: only the order of additions differs; 1e-6 was measured, and the largest one leaves room for a pixel whose normal
# has nearly no length. fp16: weights keep 11 bits, and a convolution averages their errors (2e-3 measured).
# int8: codes are the same everywhere up to the first island, see `proof`; behind it a value near a tie may take the
# neighbouring step, once in some 100 000 times. Hence hardly a bound on a single value: behind a sampling offset a step
# can move a pixel across an edge. Maps that are exact have no bounds: they are equal.
# half: int8 with float16 or bfloat16 between the quantizers, which moves a value near a tie some 100 times as often.
BOUNDS = {
    "fp32": Bounds(1e-4, 1e-2, 0.999),
    "fp16": Bounds(2e-2, 0.25, 0.98),
    "int8": Bounds(1e-3, 1.0, 0.9999),
    "half": Bounds(0.1, 1.0, 0.95),
}


def bounds_of(manifest: Manifest, float32: bool = True) -> Bounds:
    """The target's own bounds for the artifact's precision, where it states any, else BOUNDS.

    `float32` says whether the session computes in float32 what is not int8.
    """
    kind = "half" if manifest.precision == "int8" and not float32 else manifest.precision
    own = load_target(manifest.target).bounds.get(kind)
    return Bounds(**own) if own else BOUNDS[kind]


def differences(maps: np.ndarray, reference: np.ndarray, bounds: Bounds) -> dict[str, Any]:
    """The differences of one task's maps over all frames, and whether they are within bounds.

    Class ids: `agreement`, the share of equal ones. Others: `max` and `rms` in the map's unit, and `relative_rms`, as a
    share of the reference's standard deviation. NaN is never within bounds.
    """
    if np.issubdtype(reference.dtype, np.integer):
        agreement = float((maps == reference).mean())
        return {"agreement": agreement, "ok": agreement >= bounds.agreement}
    difference = np.abs(maps.astype(np.float64) - reference)
    spread, range = float(reference.std()), float(np.ptp(reference))
    largest, rms = float(difference.max()), float(np.sqrt((difference**2).mean()))
    # A constant reference, such as a depth map that is 0 everywhere, must be met to within float32's own rounding.
    floor = 1e-6 * max(1.0, float(np.abs(reference).max()))
    ok = rms <= bounds.rms * spread + floor and largest <= bounds.largest * range + floor
    return {"max": largest, "rms": rms, "relative_rms": rms / spread if spread else None, "ok": ok}


COLUMNS = ("max", "rms", "rms / std", "same class")


def cells(found: dict[str, Any]) -> list[str]:
    """The differences of one task for a table with COLUMNS; empty where a map has no such number."""
    numbers = ["" if found.get(key) is None else f"{found[key]:.3g}" for key in ("max", "rms", "relative_rms")]
    return [*numbers, f"{100 * found['agreement']:.3f} %" if "agreement" in found else ""]
