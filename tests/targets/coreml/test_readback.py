"""The ledger is found in a finished Core ML package, and one changed bit is named."""

import json
import shutil
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import write_json
from edgemtl.quantization import quantizers
from edgemtl.records import ledger
from edgemtl.records.target import Original
from edgemtl.targets.coreml import Options, package, target
from edgemtl.targets.coreml.readback import NAMES_KEY
from tests import toy

pytest.importorskip("coremltools")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> ledger.Ledger:
    return toy.read_ledger(tmp_path_factory.mktemp("ledger"))


def found(folder: Path) -> list[ledger.Found]:
    [places] = target.quantized(folder).values()
    return places


@pytest.fixture(scope="module", params=[17, 18])
def folder(request: pytest.FixtureRequest, converted: Callable[..., Path]) -> Path:
    return converted("int8", options=None if request.param == 17 else Options(18))


def test_equal_weights_are_one_operation_and_told_as_merged(tmp_path: Path) -> None:
    """Such as those of layers that begin with zeros, in a network that was never trained."""
    network = toy.deployed("int8")
    one, other = (network.network.get_submodule(name) for name in ("depth", "edge"))
    scales = {q.name: q.scale for q in quantizers.quantizers(network.network)}
    other.weight.copy_(one.weight)
    scales["edge.weight"].copy_(scales["depth.weight"])
    write_json(tmp_path / "scales.json", toy.ledger_of(network))
    target.convert(Original(network, toy.SIZE, toy.TASKS, "int8"), tmp_path)
    result = ledger.compare(ledger.read(tmp_path / "scales.json"), found(tmp_path))
    assert result.ok and "one node with" in result.merged["edge.weight"]


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def edit(folder: Path, change: Callable[[package.Package], None]) -> None:
    """Changes the protobuf on disk."""
    read = package.read(folder / package.FOLDER)
    change(read)
    (folder / package.FOLDER / package.MODEL).write_bytes(read.model.SerializeToString())


def by_kind(read: package.Package, *kinds: str) -> list[Any]:
    return [operation for operation in read.main.operations if operation.type in kinds]


def value(read: package.Package, operation: Any, key: str) -> Any:
    """The message with an operation's constant parameter."""
    if key in operation.attributes:
        return operation.attributes[key]
    binding = operation.inputs[key].arguments[0]
    if binding.WhichOneof("binding") == "value":
        return binding.value
    return next(made for made in read.main.operations if made.outputs[0].name == binding.name).attributes["val"]


def test_every_entry_is_there_bit_for_bit(folder: Path, rows: ledger.Ledger) -> None:
    result = ledger.compare(rows, found(folder))
    assert result.ok and not result.wrong and not result.unknown
    # The heads quantize one map with one scale, which is done once.
    assert set(result.merged) == {f"{head}/conv2d/0:0" for head in ("depth", "normals", "edge")}
    assert set(result.places) == {row.name for row in rows.rows} - set(result.merged)


def test_codes_are_those_of_torch(folder: Path) -> None:
    network = toy.deployed("int8").network
    weights = {one.name: one for one in found(folder) if one.role == "weight"}
    assert set(weights) == {f"{name}.weight" for name in toy.LAYERS}
    for name in toy.LAYERS:
        one, weight = weights[f"{name}.weight"], network.get_submodule(name).weight.detach().numpy()
        assert one.codes is not None and one.codes.dtype == np.int8 and one.axis == 0
        np.testing.assert_array_equal(one.codes * one.scale.reshape(-1, 1, 1, 1), weight)


def test_one_bit_of_a_weight_is_named(copy: Path, rows: ledger.Ledger) -> None:
    read = package.read(copy / package.FOLDER)
    (layer,) = [o for o in by_kind(read, *CODES) if o.outputs[0].name.startswith("sampled_weight")]
    blob = value(read, layer, CODES[layer.type]).blobFileValue
    path = copy / package.FOLDER / package.WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[blob.offset + 16 : blob.offset + 24], "little")
    content[first + 100] ^= 1
    path.write_bytes(content)
    result = ledger.compare(rows, found(copy))
    assert set(result.wrong) == {"sampled.weight"} and "codes" in result.wrong["sampled.weight"]


CODES = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}


@pytest.mark.parametrize("kind", ["quantize", "dequantize"])
def test_one_bit_of_a_scale_is_named(kind: str, copy: Path, rows: ledger.Ledger) -> None:
    def change(read: package.Package) -> None:
        made = value(read, by_kind(read, kind)[1], "scale").immediateValue.tensor
        content = bytearray(made.bytes.values)
        content[0] ^= 1
        made.bytes.values = bytes(content)

    edit(copy, change)
    result = ledger.compare(rows, found(copy))
    assert list(result.wrong) == ["deep/conv2d/0:0"] and "scale" in result.wrong["deep/conv2d/0:0"]


@pytest.mark.parametrize("kind", ["quantize", "dequantize"])
def test_a_zero_point_is_named(kind: str, copy: Path, rows: ledger.Ledger) -> None:
    def change(read: package.Package) -> None:
        value(read, by_kind(read, kind)[0], "zero_point").immediateValue.tensor.bytes.values = b"\x03"

    edit(copy, change)
    result = ledger.compare(rows, found(copy))
    assert list(result.wrong) == ["stem/conv2d/0:0"] and "zero point 3" in result.wrong["stem/conv2d/0:0"]


def test_a_pair_that_is_gone_is_named(copy: Path, rows: ledger.Ledger) -> None:
    def change(read: package.Package) -> None:
        into, back = by_kind(read, "quantize")[2], by_kind(read, "dequantize")[2]
        plain = into.inputs["input"].arguments[0].name
        for operation in read.main.operations:
            for argument in operation.inputs.values():
                for binding in argument.arguments:
                    if binding.name == back.outputs[0].name:
                        binding.name = plain
        for operation in (into, back):
            read.main.operations.remove(operation)

    edit(copy, change)
    assert ledger.compare(rows, found(copy)).wrong == {"point/conv2d/0:0": "the artifact does not have it"}


def test_a_tensor_without_a_name_is_not_taken_for_granted(copy: Path, rows: ledger.Ledger) -> None:
    def change(read: package.Package) -> None:
        userdefined = read.model.description.metadata.userDefined
        names = json.loads(userdefined[NAMES_KEY])
        userdefined[NAMES_KEY] = json.dumps({own: name for own, name in names.items() if name != "stem.weight"})

    edit(copy, change)
    result = ledger.compare(rows, found(copy))
    assert not result.ok and "stem.weight" in result.wrong and len(result.unknown) == 1


def test_two_quantizers_on_each_others_tensors_are_named(copy: Path, rows: ledger.Ledger) -> None:
    """Names, scales and codes are all there, and right."""

    def change(read: package.Package) -> None:
        userdefined = read.model.description.metadata.userDefined
        names = json.loads(userdefined[NAMES_KEY])
        first, second = (
            next(own for own, name in names.items() if name == f"{n}/conv2d/0:0") for n in ("deep", "point")
        )
        names[first], names[second] = names[second], names[first]
        userdefined[NAMES_KEY] = json.dumps(names)
        for kind in ("quantize", "dequantize"):
            one, other = (value(read, by_kind(read, kind)[index], "scale") for index in (1, 2))
            kept = type(one).FromString(one.SerializeToString())
            one.CopyFrom(other)
            other.CopyFrom(kept)

    edit(copy, change)
    result = ledger.compare(rows, found(copy))
    assert (
        result.wrong["deep/conv2d/0:0"]
        == "it stands on deep.weight, point/conv2d/0:0, not stem.weight, stem/conv2d/0:0"
    )
    assert result.wrong["deep.weight"] == "its layer reads point/conv2d/0:0, not deep/conv2d/0:0"
    assert not any("scale" in text for text in result.wrong.values())


def test_a_layer_that_reads_the_float_tensor_is_named(copy: Path, rows: ledger.Ledger) -> None:
    def change(read: package.Package) -> None:
        into, back = by_kind(read, "quantize")[-1], by_kind(read, "dequantize")[-1]
        readers = [o for o in by_kind(read, "conv") if o.inputs["x"].arguments[0].name == back.outputs[0].name]
        assert len(readers) == len(toy.TASKS)
        readers[2].inputs["x"].arguments[0].name = into.inputs["input"].arguments[0].name

    edit(copy, change)
    result = ledger.compare(rows, found(copy))
    assert len(result.wrong) == 1 and "the artifact does not have it" in result.wrong.values()


def test_a_doubled_quantizer_is_named(copy: Path, rows: ledger.Ledger) -> None:
    def change(read: package.Package) -> None:
        operations, back = read.main.operations, by_kind(read, "dequantize")[1]
        userdefined = read.model.description.metadata.userDefined
        names = json.loads(userdefined[NAMES_KEY])
        own = read.constant(back.attributes["name"])
        made = {"quantize": by_kind(read, "quantize")[1], "dequantize": back}
        ends = ["codes again", "again"]
        for (kind, old), end, begin in zip(made.items(), ends, [back.outputs[0].name, "codes again"]):
            copied = type(old).FromString(old.SerializeToString())
            copied.inputs["input"].arguments[0].name, copied.outputs[0].name = begin, end
            copied.attributes["name"].immediateValue.tensor.strings.values[0] = f"{kind} again"
            operations.append(copied)
        for operation in operations[:-2]:
            if operation.type == "conv" and operation.inputs["x"].arguments[0].name == back.outputs[0].name:
                operation.inputs["x"].arguments[0].name = "again"
        userdefined[NAMES_KEY] = json.dumps(names | {"dequantize again": names[own]})

    edit(copy, change)
    assert ledger.compare(rows, found(copy)).wrong == {"deep/conv2d/0:0": "2 places, the network has 1"}


def test_broken_packages_are_one_line(copy: Path) -> None:
    model, weights = (copy / package.FOLDER / name for name in (package.MODEL, package.WEIGHTS_FILE))
    content = weights.read_bytes()
    for wrong, message in ((content[: len(content) // 2], "longer than|behind the file's end"), (b"", "behind")):
        weights.write_bytes(wrong)
        with pytest.raises(UsageError, match=message):
            target.quantized(copy)
    weights.write_bytes(bytes(len(content)))
    with pytest.raises(UsageError, match="no header"):
        target.quantized(copy)
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(UsageError, match="is broken|no ML program"):
        target.quantized(copy)
    model.unlink()
    with pytest.raises(UsageError, match="no Core ML package"):
        target.quantized(copy)
