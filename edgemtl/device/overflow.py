"""Whether an artifact's integers can overflow on any CPU, from the weights' codes as its files have them.

CPUs with AVX2 or AVX-512 and without VNNI multiply unsigned activations by signed weights and add two such products in
16 bits, which saturates: 255 * (|a| + |b|) must not exceed 32767 for any two codes of one output channel. (Signed
activations are moved up by 128 first, so that 255 is the most.) Sums of all products of a channel, with activations of
-128..127, are exact in float32 too as long as they stay below 2**24, in whatever order they are added.
"""

import math
from typing import NamedTuple

import numpy as np

from edgemtl.records.ledger import Files, Found

PAIR = 32767 // 255
SUM = 2**24
ACTIVATION = 128  # the largest magnitude
VNNI = "VNNI"


class Largest(NamedTuple):
    """The largest number of all channels, and where it is."""

    value: int = 0
    where: str = "no channel"


class OverflowProof(NamedTuple):
    """What the codes say."""

    pair: Largest  # of magnitudes of two codes of one channel
    total: Largest  # of an accumulator's magnitude
    weights: int
    channels: int

    @property
    def needs(self) -> tuple[str, ...]:
        """What a CPU must have for its int8 kernels to be right."""
        return (VNNI,) if self.pair.value > PAIR else ()

    @property
    def sums(self) -> bool:
        """Whether accumulators stay where float32 is exact."""
        return self.total.value < SUM

    @property
    def text(self) -> str:
        """The finding, in one line."""
        power = f"2^{math.ceil(10 * math.log2(max(self.total.value, 1) + 1)) / 10:g}"
        if self.needs:
            pair = f"needs {VNNI}: two codes of {self.pair.where} add up to {self.pair.value} ({PAIR} allowed)"
        else:
            pair = f"no overflow: the largest pair of codes adds up to {self.pair.value} ({PAIR} allowed)"
        if self.sums:
            total = f"the largest accumulator stays below {power} (2^24 allowed)"
        else:
            total = f"the accumulator of {self.total.where} can reach {power} (2^24 allowed)"
        return f"{pair}, {total}, {self.weights} weights, {self.channels} channels"


def prove_no_overflow(files: Files) -> OverflowProof:
    """The proof over every weight in an artifact's files."""
    pair, total = Largest(), Largest()
    channels: dict[str, int] = {}
    for tensors in files.values():
        for one in tensors:
            if one.role == "weight" and one.codes is not None and one.codes.size:
                rows = _channels(one)
                channels[one.name] = len(rows)
                pair = _larger(pair, np.sort(rows, 1)[:, -2:].sum(1), one.name)
                total = _larger(total, rows.sum(1) * ACTIVATION, one.name)
    return OverflowProof(pair, total, len(channels), sum(channels.values()))


def _channels(one: Found) -> np.ndarray:
    """The magnitudes of a weight's codes, (C, N), a row for each channel with a scale of its own."""
    assert one.codes is not None
    codes = np.abs(one.codes.astype(np.int64))
    if one.axis is None or one.axis >= codes.ndim:
        return codes.reshape(1, -1)
    return np.moveaxis(codes, one.axis, 0).reshape(codes.shape[one.axis], -1)


def _larger(so_far: Largest, values: np.ndarray, name: str) -> Largest:
    channel = int(values.argmax())
    value = int(values[channel])
    return Largest(value, f"channel {channel} of {name}") if value > so_far.value else so_far
