"""The ledger: what it accepts, and how it is compared; the targets' own readers are tested with their files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemtl import ledger, quantizers
from edgemtl.errors import UsageError
from edgemtl.ledger import Found, Row
from tests import toy

CODES = np.arange(8, dtype=np.int8).reshape(2, 4)
SHA = Found("", "weight", 8, 0, np.zeros(2, np.float32), CODES).sha256
SCALES = np.array([0.5, 0.25], np.float32)
WEIGHT = Row("layer.weight", "weight", 8, 0, SCALES, ("pre_hooks.layer/conv2d/0__1.0",), SHA)
INPUT = Row(
    "layer/conv2d/0:0", "activation", 8, None, np.array(0.5, np.float32), ("pre_hooks.layer/conv2d/0__0.0",), None
)
SUM = Row("add/0:0", "activation", 8, None, np.array(0.5, np.float32), ("pre_hooks./add/0__0.0",), None)


def found(row: Row, *readers: str, **changes: Any) -> Found:
    codes = CODES if row.role == "weight" else None
    return Found(row.name, row.role, row.bits, row.axis, row.scale, codes, readers)._replace(**changes)


def write(tmp_path: Path, **changes: Any) -> Path:
    rows = quantizers.ledger(toy.deployed("int8").network)
    path = tmp_path / "scales.json"
    limits = {"format": quantizers.FORMAT, "sha256": "0" * 64, "zero_point": 0, "codes": [-128, 127]}
    path.write_text(json.dumps(limits | {"quantized": rows} | changes))
    return path


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    read = ledger.read(write(tmp_path))
    network = toy.deployed("int8").network
    assert read.sha256 == "0" * 64 and len(read.rows) == 2 * len(toy.LAYERS)
    for row, quantizer in zip(read.rows, quantizers.quantizers(network)):
        assert (row.name, row.role, row.axis) == (quantizer.name, quantizer.role, quantizer.axis)
        np.testing.assert_array_equal(row.scale, quantizer.scale.numpy())


def test_constants_are_those_of_the_workshop() -> None:
    assert (ledger.FORMAT, ledger.LOW, ledger.HIGH) == (quantizers.FORMAT, quantizers.LOW, quantizers.HIGH)
    assert (ledger.SMALLEST, ledger.LARGEST) == (quantizers.SMALLEST, quantizers.LARGEST)


@pytest.mark.parametrize(
    ("index", "changes", "wanted"),
    [
        (0, {"scale": [0.1] * 16}, "stem.weight: scale 0.100000001 is no positive, normal float16 number"),
        (1, {"scale": -0.5}, "stem/conv2d/0:0: scale -0.5 is no positive"),
        (1, {"scale": 0.0}, "stem/conv2d/0:0: scale 0 is no positive"),
        (1, {"scale": 2.0**-15}, "is no positive, normal float16"),
        (1, {"scale": float("nan")}, "scale nan"),
        (1, {"scale": 65536.0}, "scale 65536"),
        (1, {"scale": 0.5 + 2.0**-40}, "is no positive, normal float16"),  # float32 would round it to 0.5
        (1, {"scale": [0.5]}, "an activation has one scale"),
        (0, {"scale": 0.5, "axis": None}, "a weight has a scale for each channel, this one has axis None"),
        (0, {"sha256": "abc"}, "a weight has a SHA-256 of its codes, this one has 'abc'"),
        (0, {"bits": 4}, "4 bits, expected 8"),
        (0, {"role": "bias"}, "role 'bias', expected weight or activation"),
        (0, {"slots": []}, "no slots"),
        (1, {"name": "stem.weight"}, "stem.weight: it is there twice"),
        (1, {"name": "a b"}, "'a b' is no name"),
    ],
)
def test_an_entry_that_breaks_the_contract_is_one_line(
    tmp_path: Path, index: int, changes: dict[str, Any], wanted: str
) -> None:
    rows = quantizers.ledger(toy.deployed("int8").network)
    rows[index] |= changes
    with pytest.raises(UsageError, match="scales.json was damaged: ") as caught:
        ledger.read(write(tmp_path, quantized=rows))
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_ledger_is_one_line(tmp_path: Path) -> None:
    for changes in ({"zero_point": 3}, {"codes": [-127, 127]}, {"format": "edgemtl int8 0"}):
        with pytest.raises(UsageError, match="is no ledger of this version"):
            ledger.read(write(tmp_path, **changes))
    with pytest.raises(UsageError, match="damaged: the file"):
        ledger.read(write(tmp_path, quantized=3))
    rows = quantizers.ledger(toy.deployed("int8").network)
    del rows[0]["axis"]
    with pytest.raises(UsageError, match="stem.weight: has no 'axis'"):
        ledger.read(write(tmp_path, quantized=rows))
    (tmp_path / "scales.json").write_text("[]")
    with pytest.raises(UsageError, match="is no ledger of this version"):
        ledger.read(tmp_path / "scales.json")


def test_equal_entries_are_counted() -> None:
    result = ledger.compare([WEIGHT, INPUT], [found(WEIGHT, "conv"), found(INPUT, "conv"), found(INPUT, "other")])
    assert result.ok and result.places == {"layer.weight": 1, "layer/conv2d/0:0": 2}
    assert result.text == "2 of 2 entries bit-equal (1 weights, 1 activations, 3 places)"


@pytest.mark.parametrize(
    ("row", "changes", "wanted"),
    [
        (INPUT, {"scale": np.nextafter(INPUT.scale, np.float32(1))}, "scale 0.50000006, the ledger has 0.5"),
        (INPUT, {"scale": np.array(0.5)}, "scales float64 (), the ledger has float32 ()"),
        (INPUT, {"bits": 4}, "bits 4, the ledger has 8"),
        (INPUT, {"problem": "zero point 3, expected 0"}, "zero point 3, expected 0"),
        (WEIGHT, {"scale": SCALES[::-1].copy()}, "scale of channel 0 0.25, the ledger has 0.5 (and 1 more)"),
        (WEIGHT, {"scale": SCALES * np.float32([1, 2])}, "scale of channel 1 0.5, the ledger has 0.25"),
        (WEIGHT, {"axis": 1}, "axis 1, the ledger has 0"),
        (WEIGHT, {"codes": CODES.astype(np.int16)}, "codes int16, the ledger has int8"),
        (WEIGHT, {"codes": None}, "codes None, the ledger has int8"),
        (WEIGHT, {"role": "activation"}, "role activation, the ledger has weight"),
    ],
)
def test_what_differs_is_named(row: Row, changes: dict[str, Any], wanted: str) -> None:
    other = INPUT if row is WEIGHT else WEIGHT
    # A right place beside the wrong one does not help.
    result = ledger.compare([row, other], [found(row, "conv"), found(row, "conv", **changes), found(other, "conv")])
    assert not result.ok and result.wrong == {row.name: wanted}
    assert result.text.startswith("1 of 2 entries bit-equal")


def test_every_bit_of_the_codes_counts() -> None:
    for bit in range(CODES.size * 8):
        codes = CODES.copy()
        codes.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << bit % 8
        assert "SHA-256" in ledger.compare([WEIGHT], [found(WEIGHT, "conv", codes=codes)]).wrong[WEIGHT.name]


def test_what_is_missing_or_unknown_fails() -> None:
    result = ledger.compare([WEIGHT, INPUT], [found(WEIGHT, "conv")])
    assert result.wrong == {INPUT.name: "the artifact does not have it"}
    result = ledger.compare([WEIGHT], [found(WEIGHT, "conv"), found(INPUT, "conv")])
    assert not result.ok and result.unknown == {INPUT.name: "activation that is not in the ledger"}


def test_an_entry_in_another_ones_node_is_listed_with_its_reader() -> None:
    other = INPUT._replace(name="other/conv2d/0:0", slots=("pre_hooks.other/conv2d/0__0.0",))
    rows = [WEIGHT, INPUT, other]
    result = ledger.compare(rows, [found(WEIGHT, "conv_7"), found(other, "conv_7", "conv_8")])
    assert result.ok and result.merged == {
        INPUT.name: "one node with other/conv2d/0:0: equal scales, and conv_7 reads it"
    }
    for place in (
        found(other, "conv_8"),  # the layer with layer.weight does not read it
        found(other, "conv_7", "conv_8", scale=np.array(0.25, np.float32)),  # or reads something else
    ):
        assert INPUT.name in ledger.compare(rows, [found(WEIGHT, "conv_7"), place]).wrong


def test_an_operation_without_a_weight_is_known_by_its_kind() -> None:
    rows = [WEIGHT, INPUT, SUM]
    conv, both = found(WEIGHT, "conv_7"), found(INPUT, "conv_7", "net/Add_3")
    assert ledger.compare(rows, [conv, both]).merged == {
        SUM.name: "one node with layer/conv2d/0:0: equal scales, and net/Add_3 reads it"
    }
    assert SUM.name in ledger.compare(rows, [conv, found(INPUT, "conv_7", "net/Mul_3")]).wrong
    # One Add can stand for one entry, not for two.
    second = SUM._replace(name="add/1:0", slots=("pre_hooks./add/1__0.0",))
    assert set(ledger.compare([*rows, second], [conv, both]).wrong) == {"add/1:0"}


def test_fewer_places_than_slots_need_as_many_readers() -> None:
    shared = WEIGHT._replace(slots=("pre_hooks.layer/conv2d/0__1.0", "pre_hooks.layer/conv2d/1__1.0"))
    result = ledger.compare([shared], [found(WEIGHT, "conv", "conv_1")])
    assert result.ok and "2 slots in 1 node(s)" in result.merged[WEIGHT.name]
    assert not ledger.compare([shared], [found(WEIGHT, "conv")]).ok
    assert ledger.compare([shared], [found(WEIGHT, "conv"), found(WEIGHT, "conv_1")]).ok


def test_names_of_places() -> None:
    assert [ledger.place("a/b:0", i) for i in range(3)] == ["a/b:0", "a/b:0 #2", "a/b:0 #3"]
    assert {ledger.name(ledger.place("a/b:0", i)) for i in range(3)} == {"a/b:0"}
