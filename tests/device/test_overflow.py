"""The proof that no two products and no sum can overflow, over codes as files hold them."""

import numpy as np
import pytest

from edgemtl.device import overflow
from edgemtl.records.ledger import NO_SCALE, Found


def weight(codes: np.ndarray, axis: int | None = 0, name: str = "layer.weight") -> Found:
    return Found(name, "weight", 8, axis, NO_SCALE, codes.astype(np.int8))


def pairs_in_16_bits(codes: np.ndarray) -> bool:
    """Whether all sums of two products of a channel stay in int16, by trying the extreme activations."""
    for channel in codes.astype(np.int64):
        for i in range(channel.size):
            for j in range(channel.size):
                for u in (0, 255):
                    for v in (0, 255):
                        if i != j and not -32768 <= u * channel[i] + v * channel[j] <= 32767:
                            return False
    return True


def test_the_condition_is_that_of_16_bits() -> None:
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        limit = int(random.integers(50, 80))
        codes = random.integers(-limit, limit, (2, 6))
        fits = not overflow.prove_no_overflow({"f": [weight(codes)]}).needs
        pair = np.sort(np.abs(codes), 1)[:, -2:].sum(1).max()
        assert fits == (pair <= 128)
        assert pairs_in_16_bits(codes) or not fits  # what passes never saturates
        seen.add(fits)
    assert seen == {True, False}
    assert not pairs_in_16_bits(np.array([[65, 64]])) and pairs_in_16_bits(np.array([[64, 64]]))


def test_seven_bits_cannot_overflow() -> None:
    codes = np.full((3, 8, 3, 3), -64)
    proof = overflow.prove_no_overflow({"f": [weight(codes)]})
    assert proof.needs == () and proof.sums
    assert proof.text == (
        "no overflow: the largest pair of codes adds up to 128 (128 allowed),"
        " the largest accumulator stays below 2^19.2 (2^24 allowed), 1 weights, 3 channels"
    )


def test_the_first_channel_that_overflows_is_named() -> None:
    codes = np.ones((4, 5))
    codes[2, :2] = 100, -29
    fine = weight(np.ones((2, 5)), name="other.weight")
    proof = overflow.prove_no_overflow({"a": [fine, weight(codes)], "b": [fine]})
    assert proof.needs == ("VNNI",) and proof.sums and (proof.weights, proof.channels) == (2, 6)
    assert proof.text.startswith("needs VNNI: two codes of channel 2 of layer.weight add up to 129 (128 allowed)")
    assert not overflow.prove_no_overflow({"a": [fine], "b": [fine]}).needs


def test_a_channel_is_along_the_weights_own_axis() -> None:
    codes = np.zeros((2, 2))
    codes[0, 1], codes[1, 1] = 100, 100
    assert not overflow.prove_no_overflow({"f": [weight(codes)]}).needs
    assert overflow.prove_no_overflow({"f": [weight(codes, axis=1)]}).needs
    assert overflow.prove_no_overflow({"f": [weight(codes, axis=None)]}).needs


@pytest.mark.parametrize(("extra", "sums"), [(0, True), (1, False)])
def test_accumulators_must_stay_below_2_to_the_24(extra: int, sums: bool) -> None:
    codes = np.ones((2, 131_071 + extra))  # times 128
    codes[0] = 0
    proof = overflow.prove_no_overflow({"f": [weight(codes)]})
    assert proof.sums == sums and not proof.needs
    assert ("the accumulator of channel 1 of layer.weight can reach 2^24" in proof.text) != sums


def test_no_weights_are_no_overflow() -> None:
    assert overflow.prove_no_overflow({"f": []}).text.endswith("0 weights, 0 channels")
