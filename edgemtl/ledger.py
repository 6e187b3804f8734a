"""The ledger, `scales.json`: every quantized tensor of an int8 model, and what a finished artifact holds of each.

NumPy only, and nothing here knows a file format: a target's `quantized(folder)` reads its own files, from their bytes,
and gives back what it found as `Found`.
"""

import hashlib
from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """One quantized tensor as a target's files hold it."""

    name: str  # the ledger's
    role: str  # "weight" or "activation"
    bits: int
    axis: int | None  # of the channels with a scale each; None: one scale
    scale: np.ndarray  # float32, () or (C,)
    codes: np.ndarray | None = None  # int8 of a weight, in torch's layout; formats that shift them are shifted back

    @property
    def sha256(self) -> str | None:
        """Of the codes' bytes, as the ledger has it."""
        return None if self.codes is None else hashlib.sha256(np.ascontiguousarray(self.codes).tobytes()).hexdigest()
