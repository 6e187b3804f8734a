"""The ledger: what it accepts, and how it is compared; the targets' own readers are tested with their files."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemtl.ground.errors import UsageError
from edgemtl.quantization import quantizers
from edgemtl.records import ledger
from edgemtl.records.ledger import Found, Row
from tests import toy

CODES = np.arange(8, dtype=np.int8).reshape(2, 4)
SHA = Found("", "weight", 8, 0, np.zeros(2, np.float32), CODES).sha256
SCALES = np.array([0.5, 0.25], np.float32)
HALF = np.array(0.5, np.float32)
DATA = frozenset({("layer/conv2d/0:0",)})
WEIGHT = Row("layer.weight", "weight", 7, 0, SCALES, ("pre_hooks.layer/conv2d/0__1.0",), SHA, DATA)
INPUT = Row("layer/conv2d/0:0", "activation", 8, None, HALF, ("pre_hooks.layer/conv2d/0__0.0",), None, frozenset({()}))
SUM = Row("add/0:0", "activation", 8, None, HALF, ("post_hooks.add/0__0.0",), None, frozenset({("layer.weight",)}))


def found(row: Row, *readers: str, **changes: Any) -> Found:
    codes = CODES if row.role == "weight" else None
    return Found(row.name, row.role, 8, row.axis, row.scale, codes, readers, tuple(row.reads))._replace(**changes)


def compare(rows: list[Row], places: list[Found], **outputs: tuple[str, ...]) -> ledger.Comparison:
    return ledger.compare(ledger.Ledger("", "float16", rows, outputs), places)


@functools.cache
def written() -> str:
    return json.dumps(toy.ledger_of(toy.deployed("int8", most=127)))


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "scales.json"
    path.write_text(json.dumps(json.loads(written()) | changes))
    return path


def rows_of_the_toy() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(written())["quantized"]
    return rows


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    read = ledger.read(write(tmp_path))
    network = toy.deployed("int8", most=127).network
    assert read.sha256 == "0" * 64 and read.scales == "float16" and len(read.rows) == 2 * len(toy.LAYERS)
    for row, quantizer in zip(read.rows, quantizers.quantizers(network)):
        assert (row.name, row.role, row.axis, row.bits) == (quantizer.name, quantizer.role, quantizer.axis, 8)
        np.testing.assert_array_equal(row.scale, quantizer.scale.numpy())


def test_the_ledger_says_where_quantizers_stand(tmp_path: Path) -> None:
    read = ledger.read(write(tmp_path))
    reads = {row.name: row.reads for row in read.rows}
    for layer in toy.LAYERS:
        assert reads[f"{layer}.weight"] == {(f"{layer}/conv2d/0:0",)}
    assert reads["stem/conv2d/0:0"] == {()}
    assert reads["deep/conv2d/0:0"] == {("stem.weight", "stem/conv2d/0:0")}
    # Behind the sum: both of its sides.
    assert reads["offset/conv2d/0:0"] == {("point.weight", "point/conv2d/0:0", "stem.weight", "stem/conv2d/0:0")}
    # Sampling reads the sum at places that follow from the offsets.
    both = {*next(iter(reads["offset/conv2d/0:0"])), "offset.weight", "offset/conv2d/0:0"}
    assert reads["sampled/conv2d/0:0"] == {tuple(sorted(both))}
    assert read.outputs == {task: (f"{task}.weight", f"{task}/conv2d/0:0") for task in toy.TASKS}


def test_constants_are_those_of_the_workshop() -> None:
    assert quantizers.CODES is ledger.CODES and quantizers.FORMAT is ledger.FORMAT


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
        (0, {"bits": 7}, "7 bits, expected 8"),
        (0, {"role": "bias"}, "role 'bias', expected weight or activation"),
        (0, {"slots": []}, "no slots"),
        (0, {"slots": ["somewhere"]}, "unknown ones: ['somewhere']"),
        (0, {"reads": [["nowhere"]]}, "stem.weight: it reads nowhere, which has no entry"),
        (1, {"name": "stem.weight"}, "stem.weight: it is there twice"),
        (1, {"name": "a b"}, "'a b' is no name"),
    ],
)
def test_an_entry_that_breaks_the_contract_is_one_line(
    tmp_path: Path, index: int, changes: dict[str, Any], wanted: str
) -> None:
    rows = rows_of_the_toy()
    rows[index] |= changes
    with pytest.raises(UsageError, match="scales.json was damaged: ") as caught:
        ledger.read(write(tmp_path, quantized=rows))
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_powers_of_two_are_asked_for_where_they_are_promised(tmp_path: Path) -> None:
    rows = rows_of_the_toy()
    for row in rows:
        row["scale"] = [2.0**-14] * len(row["scale"]) if row["role"] == "weight" else 0.25
    assert ledger.read(write(tmp_path, quantized=rows, scales="power of two")).scales == "power of two"
    rows[0]["scale"][3] = 0.75
    assert ledger.read(write(tmp_path, quantized=rows)).scales == "float16"
    with pytest.raises(UsageError, match="stem.weight: scale 0.75 is no power of two"):
        ledger.read(write(tmp_path, quantized=rows, scales="power of two"))


def test_a_file_that_is_no_ledger_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is of int8 scheme 1, whose codes overflow .*; compress again"):
        ledger.read(write(tmp_path, format="edgemtl int8 1"))
    with pytest.raises(UsageError, match="is no ledger of this version: format 'edgemtl int8 0'"):
        ledger.read(write(tmp_path, format="edgemtl int8 0"))
    wide = {"weight": [-127, 127], "activation": [-128, 127]}
    for changes, wanted in (
        ({"zero_point": 3}, "zero point 3, expected 0"),
        ({"codes": wide}, "codes {'weight': .-127, 127."),
        ({"codes": {**wide, "weight": [-64, 63], "bias": [0, 1]}}, "codes {'weight'"),
        ({"scales": "any"}, "scales 'any', expected power of two or float16"),
        ({"quantized": 3}, "'int' object"),
        ({"outputs": {"depth": ["nowhere"]}}, "it reads nowhere"),
    ):
        with pytest.raises(UsageError, match=f"damaged: the file: {wanted}"):
            ledger.read(write(tmp_path, **changes))
    for key in ("axis", "reads"):
        rows = rows_of_the_toy()
        del rows[0][key]
        with pytest.raises(UsageError, match=f"stem.weight: has no '{key}'"):
            ledger.read(write(tmp_path, quantized=rows))
    (tmp_path / "scales.json").write_text("[]")
    with pytest.raises(UsageError, match="is no ledger of this version"):
        ledger.read(tmp_path / "scales.json")


def test_equal_entries_are_counted() -> None:
    twice = INPUT._replace(slots=(*INPUT.slots, "points.layer.point"))
    result = compare([WEIGHT, twice], [found(WEIGHT, "conv"), found(INPUT, "conv"), found(INPUT, "other")])
    assert result.ok and result.places == {"layer.weight": 1, "layer/conv2d/0:0": 2}
    assert result.text == "2 of 2 entries bit-equal (1 weights, 1 activations, 3 places)"


def test_more_places_than_the_network_has_are_wrong() -> None:
    result = compare([WEIGHT, INPUT], [found(WEIGHT, "conv"), found(INPUT, "conv"), found(INPUT, "other")])
    assert result.wrong == {INPUT.name: "2 places, the network has 1"} and INPUT.name not in result.places


def test_every_file_is_held_against_every_row() -> None:
    made = ledger.Ledger("", "float16", [WEIGHT, INPUT], {})
    whole = [found(WEIGHT, "conv"), found(INPUT, "conv")]
    result = ledger.compare_files(made, {"a": whole, "b": whole})
    assert result.ok and result.text.startswith(
        "2 of 2 entries bit-equal in each of 2 files (1 weights, 1 activations, 4"
    )
    # What one file has too often does not make up for what another lacks.
    result = ledger.compare_files(made, {"a": whole[:1], "b": [*whole, whole[1]]})
    assert result.wrong == {INPUT.name: "a: the artifact does not have it; b: 2 places, the network has 1"}
    assert result.text.startswith("1 of 2 entries")
    result = ledger.compare_files(made, {"a": whole, "b": [*whole, found(SUM, "conv")]})
    assert not result.ok and result.unknown == {SUM.name: "b: activation that is not in the ledger"}


@pytest.mark.parametrize(
    ("row", "changes", "wanted"),
    [
        (INPUT, {"scale": np.nextafter(INPUT.scale, np.float32(1))}, "scale 0.50000006, the ledger has 0.5"),
        (INPUT, {"scale": np.array(0.5)}, "scales float64 (), the ledger has float32 ()"),
        (INPUT, {"bits": 4}, "stored in 4 bits, expected 8"),
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
    row = row._replace(slots=(*row.slots, "points.other"))
    other = INPUT if row.role == "weight" else WEIGHT
    # A right place beside the wrong one does not help.
    result = compare([row, other], [found(row, "conv"), found(row, "conv", **changes), found(other, "conv")])
    assert not result.ok and result.wrong == {row.name: wanted}
    assert result.text.startswith("1 of 2 entries bit-equal")


def test_every_bit_of_the_codes_counts() -> None:
    for bit in range(CODES.size * 8):
        codes = CODES.copy()
        codes.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << bit % 8
        assert "SHA-256" in compare([WEIGHT], [found(WEIGHT, "conv", codes=codes)]).wrong[WEIGHT.name]


def test_codes_beyond_their_bits_are_named() -> None:
    codes = CODES - np.int8(70)
    wide = found(WEIGHT, "conv", codes=codes)
    row = WEIGHT._replace(sha256=wide.sha256)
    assert compare([row, INPUT], [wide, found(INPUT)]).wrong == {WEIGHT.name: "codes -70..-63, 7 bits are -64..63"}
    assert compare([row._replace(bits=8), INPUT], [wide, found(INPUT)]).ok


def test_what_is_missing_or_unknown_fails() -> None:
    result = compare([WEIGHT, INPUT], [found(WEIGHT, "conv")])
    assert result.wrong == {INPUT.name: "the artifact does not have it"}
    alone = WEIGHT._replace(reads=frozenset({()}))
    result = compare([alone], [found(alone, "conv"), found(INPUT, "conv")])
    assert not result.ok and result.unknown == {INPUT.name: "activation that is not in the ledger"}


def test_a_layer_that_reads_another_tensor_is_named() -> None:
    rows, places = [WEIGHT, INPUT, SUM], [found(INPUT), found(SUM)]
    assert compare(rows, [found(WEIGHT), *places]).ok
    for reads, wanted in (
        (((),), "its layer reads nothing quantized, not layer/conv2d/0:0"),
        ((("add/0:0",),), "its layer reads add/0:0, not layer/conv2d/0:0"),
        ((("layer/conv2d/0:0",), ()), "its layer reads nothing quantized as well"),
        ((), "in no place its layer reads layer/conv2d/0:0"),
    ):
        result = compare(rows, [found(WEIGHT, reads=reads), *places])
        assert result.wrong == {WEIGHT.name: wanted} and result.text.startswith("2 of 3")


def test_a_quantizer_on_another_tensor_is_named() -> None:
    rows = [WEIGHT, INPUT, SUM]
    result = compare(rows, [found(WEIGHT), found(INPUT, reads=tuple(SUM.reads)), found(SUM, reads=((),))])
    assert result.wrong == {
        INPUT.name: "it stands on layer.weight, not nothing quantized",
        SUM.name: "it stands on nothing quantized, not layer.weight",
    }


def test_a_map_that_comes_from_elsewhere_is_named() -> None:
    places = [found(WEIGHT), found(INPUT), found(SUM)]
    maps = {"depth": ("add/0:0",), "edge": ("layer.weight",)}
    right, swapped = ledger.output("depth", maps["depth"]), ledger.output("depth", maps["edge"])
    result = compare([WEIGHT, INPUT, SUM], [*places, right, ledger.output("edge", maps["edge"])], **maps)
    assert result.ok and result.text.startswith("3 of 3")
    result = compare([WEIGHT, INPUT, SUM], [*places, swapped], **maps)
    assert result.wrong == {
        "depth": "the map comes from layer.weight, not add/0:0",
        "edge": "the artifact has no such map",
    }
    assert result.text.startswith("3 of 3")


def test_an_entry_in_another_ones_node_is_listed_with_its_reader() -> None:
    other = INPUT._replace(name="other/conv2d/0:0", slots=("pre_hooks.other/conv2d/0__0.0",))
    rows = [WEIGHT, INPUT, other]
    weight = found(WEIGHT, reads=((other.name,),))
    result = compare(rows, [weight, found(other)])
    assert result.ok and result.merged == {
        INPUT.name: "one node with other/conv2d/0:0: equal scales, and layer.weight reads it"
    }
    assert result.text == "3 of 3 entries bit-equal (1 weights, 2 activations, 2 places)"
    for places in (
        [found(WEIGHT, reads=((),)), found(other)],  # the layer with layer.weight does not read it
        [weight, found(other, scale=np.array(0.25, np.float32))],  # or reads something else
        [weight, found(other, reads=(("layer.weight",),))],  # that stands on another tensor
    ):
        assert INPUT.name in compare(rows, places).wrong


def test_merged_weights_and_what_reads_them() -> None:
    """Two equal layers on one tensor: one node for their inputs, one for their weights, one for what follows."""
    twin = WEIGHT._replace(name="twin.weight", reads=frozenset({("twin/conv2d/0:0",)}))
    into = INPUT._replace(name="twin/conv2d/0:0")
    after = SUM._replace(name="add/1:0", reads=frozenset({("twin.weight",)}))
    rows = [after, into, twin, WEIGHT, INPUT, SUM]
    places, maps = [found(WEIGHT), found(INPUT), found(SUM)], {"depth": ("add/0:0", "add/1:0")}
    result = compare(rows, [*places, ledger.output("depth", ("add/0:0",))], **maps)
    assert result.ok and set(result.merged) == {"twin.weight", "twin/conv2d/0:0", "add/1:0"}
    assert not compare(rows, [*places, ledger.output("depth", ("layer.weight",))], **maps).ok


def test_fewer_places_than_slots_need_as_many_readers() -> None:
    shared = WEIGHT._replace(slots=("pre_hooks.layer/conv2d/0__1.0", "pre_hooks.layer/conv2d/1__1.0"))
    rows = [shared, INPUT]
    result = compare(rows, [found(shared, "conv", "conv_1"), found(INPUT)])
    assert result.ok and "2 slots in 1 node(s)" in result.merged[WEIGHT.name]
    assert not compare(rows, [found(shared, "conv"), found(INPUT)]).ok
    assert compare(rows, [found(shared, "conv"), found(shared, "conv_1"), found(INPUT)]).ok


def test_names_of_places() -> None:
    assert [ledger.node_name("a/b:0", i) for i in range(3)] == ["a/b:0", "a/b:0 #2", "a/b:0 #3"]
    assert {ledger.entry_name(ledger.node_name("a/b:0", i)) for i in range(3)} == {"a/b:0"}


def test_sources_are_the_nearest_quantized_tensors_above() -> None:
    above = {"map": ["sum"], "sum": ["a", "float"], "float": ["b", "sum", "frame"], "a": ["c"], "b": ["c"]}
    names = {"a": "A", "b": "B", "c": "C"}
    assert ledger.sources(["map"], names.get, lambda node: above.get(node, ())) == ("A", "B")
    assert ledger.sources(["b"], names.get, lambda node: above.get(node, ())) == ("B",)
    assert ledger.sources(above["a"], names.get, lambda node: above.get(node, ())) == ("C",)
    assert ledger.sources(["frame"], names.get, lambda node: above.get(node, ())) == ()
