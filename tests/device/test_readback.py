"""verify --ledger: what was converted is bit-equal, and every kind of damage is found with the tensor's name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from edgemtl.deployment import convert
from edgemtl.device import overflow
from edgemtl.device.readback import read_back
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.quantization import quantizers, weights
from edgemtl.records import artifact, ledger
from tests import toy

pytestmark = pytest.mark.slow

TARGETS = {"openvino": "model.bin", "onnx": "model.onnx"}  # and where its integers and scales lie
# Inputs of the heads: equal scales on one tensor.
SHARED = tuple(f"{head}/conv2d/0:0" for head in ("semseg", "depth", "normals", "edge"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of the toy network with an int8 artifact of both targets and its ledger."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    folder = toy.write_run(tmp_path_factory.mktemp("runs") / "run")
    toy.write_ledger(folder, toy.deployed("int8", most=127))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load", lambda run, form: toy.deployed(form, most=127))
        for target in TARGETS:
            convert.convert(folder, target=target)
        convert.convert(folder, target="openvino", precision="fp32")
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A run folder of its own to damage, and the artifact in it."""

    def copy(target: str) -> Path:
        shutil.copytree(run, tmp_path / "run", dirs_exist_ok=True)
        return tmp_path / "run" / target

    return copy


def parts(target: str) -> list[tuple[str, bytes]]:
    """Every ledger entry with the bytes it should have in the target's file: codes, and scales or limits."""
    network = toy.deployed("int8", most=127).network
    found = []
    for quantizer in quantizers.quantizers(network):
        scale = quantizer.scale.numpy()
        if quantizer.role == "weight":
            weight = network.get_parameter(quantizer.name)
            codes = quantizers.codes(weight, quantizer.scale, quantizer.axis).numpy()
            found += [(quantizer.name, codes.tobytes()), (quantizer.name, scale.tobytes())]
        elif target == "openvino":  # FakeQuantize has the two ends of the range
            found += [(quantizer.name, (scale * np.float32(end)).tobytes()) for end in (-128, 127)]
        else:
            found.append((quantizer.name, scale.tobytes()))
    return found


def wrong(path: Path, **options: Any) -> dict[str, str]:
    """The tensors that are found wrong, and why; the one line names the first, and of several files the damaged one."""
    with pytest.raises(CheckFailed) as caught:
        read_back(path, **options)
    found = json.loads((path.parent / "verify.json").read_text())[path.name]
    assert not found["ok"] and not found["ledger"]["ok"]
    named: dict[str, str] = found["ledger"]["wrong"]
    assert not named or next(iter(named)) in str(caught.value)
    if path.name == "onnx":  # whose other file, for WebGPU, is whole
        assert all(text.startswith("model.onnx: ") and "webgpu" not in text for text in named.values())
    return {name: text.removeprefix("model.onnx: ") for name, text in named.items()}


@pytest.mark.parametrize("target", TARGETS)
def test_all_entries_are_bit_equal(run: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_back(run / target)
    assert found["ok"] and found["matches"] == found["entries"] == 2 * len(toy.LAYERS)
    where, places = (" in each of 2 files", 30) if target == "onnx" else ("", 15)
    assert found["text"] == f"18 of 18 entries bit-equal{where} (9 weights, 9 activations, {places} places)"
    assert len(found["gone"]) == 3 and set(found["gone"]) < set(SHARED)
    assert all("equal scales, and " in reason for reason in found["gone"].values())
    assert found["text"] in capsys.readouterr().out
    assert json.loads((run / "verify.json").read_text())[target]["ledger"] == found


@pytest.mark.parametrize("target", TARGETS)
def test_a_flipped_bit_of_any_entry_is_found(target: str, copied: Callable[[str], Path]) -> None:
    path, random = copied(target), np.random.default_rng(0)
    file = path / TARGETS[target]
    content = file.read_bytes()
    seen = set()
    for name, needle in parts(target):
        at = content.index(needle)
        for bit in random.integers(0, 8 * len(needle), 3):
            damaged = bytearray(content)
            damaged[at + bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            named = wrong(path)
            assert name in named, (name, bit)
            assert set(named) <= {name, *(SHARED if name in SHARED else ())}
            seen.add(name)
    assert len(seen) == 2 * len(toy.LAYERS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_scale_that_is_one_ulp_off_is_found(target: str, copied: Callable[[str], Path]) -> None:
    path = copied(target)
    file = path / TARGETS[target]
    content = file.read_bytes()
    for name, needle in parts(target):
        if name == "point.weight" and len(needle) == 64:  # 16 scales
            scale = np.frombuffer(needle, np.float32).copy()
            scale[5] = np.nextafter(scale[5], np.float32(1))
            file.write_bytes(content.replace(needle, scale.tobytes()))
    named = wrong(path)
    assert list(named) == ["point.weight"] and named["point.weight"].startswith("scale of channel 5 ")
    with pytest.raises(CheckFailed, match="17 of 18 .*; point.weight: .*scale of .*; changed after the conversion"):
        read_back(path)


@pytest.mark.parametrize("target", TARGETS)
def test_swapped_scales_are_found(target: str, copied: Callable[[str], Path]) -> None:
    path = copied(target)
    file = path / TARGETS[target]
    content = file.read_bytes()
    first, second = (
        [needle for name, needle in parts(target) if name == wanted]
        for wanted in ("deep/conv2d/0:0", "sampled/conv2d/0:0")
    )
    for a, b in zip(first, second):
        assert content.count(a) == content.count(b) == 1
        content = content.replace(a, b"????").replace(b, a).replace(b"????", b)
    file.write_bytes(content)
    named = wrong(path)
    assert set(named) == {"deep/conv2d/0:0", "sampled/conv2d/0:0"} and all(
        text.startswith("scale ") for text in named.values()
    )


def edit_onnx(path: Path, change: Callable[[Any, dict[str, Any]], None]) -> None:
    import onnx

    model = onnx.load(path / "model.onnx")
    change(model.graph, {node.name: node for node in model.graph.node})
    onnx.save(model, path / "model.onnx")


def edit_openvino(path: Path, change: Callable[[Any, dict[str, Any]], None]) -> None:
    import openvino as ov

    model = ov.Core().read_model(path / "model.xml")
    change(model, {node.get_friendly_name(): node for node in model.get_ordered_ops()})
    ov.save_model(model, path / "changed.xml", compress_to_fp16=False)
    del model
    (path / "changed.xml").replace(path / "model.xml")
    (path / "changed.bin").replace(path / "model.bin")


@pytest.mark.parametrize(
    ("zero", "wanted"),
    [(np.array(3, np.int8), "zero point 3, expected 0"), (np.array(0, np.uint8), "zero point uint8, expected int8 0")],
)
def test_onnx_zero_points_must_be_int8_zeros(copied: Callable[[str], Path], zero: np.ndarray, wanted: str) -> None:
    from onnx import numpy_helper

    for name in ("deep/conv2d/0:0", "deep/conv2d/0:0/QuantizeLinear"):
        path = copied("onnx")

        def change(graph: Any, nodes: dict[str, Any], name: str = name) -> None:
            graph.initializer.append(numpy_helper.from_array(zero, "other zero"))
            nodes[name].input[2] = "other zero"

        edit_onnx(path, change)
        named = wrong(path)
        assert list(named) == ["deep/conv2d/0:0"] and named["deep/conv2d/0:0"].endswith(wanted)


def test_onnx_quantizers_may_not_differ_from_dequantizers(copied: Callable[[str], Path]) -> None:
    path = copied("onnx")
    edit_onnx(
        path,
        lambda graph, nodes: nodes["deep/conv2d/0:0/QuantizeLinear"].input.__setitem__(1, "point/conv2d/0:0/scale"),
    )
    named = wrong(path)
    assert list(named) == ["deep/conv2d/0:0"] and "QuantizeLinear has scale" in named["deep/conv2d/0:0"]


def test_onnx_pairs_that_were_dropped_are_missed(copied: Callable[[str], Path]) -> None:
    path = copied("onnx")

    def change(graph: Any, nodes: dict[str, Any]) -> None:
        before, after = nodes["deep/conv2d/0:0/QuantizeLinear"], nodes["deep/conv2d/0:0"]
        for node in graph.node:
            node.input[:] = [before.input[0] if value == after.output[0] else value for value in node.input]
        graph.node.remove(before)
        graph.node.remove(after)

    edit_onnx(path, change)
    assert wrong(path) == {"deep/conv2d/0:0": "the artifact does not have it"}


def test_onnx_a_quantizer_without_its_way_back_is_named(copied: Callable[[str], Path]) -> None:
    path = copied("onnx")

    def change(graph: Any, nodes: dict[str, Any]) -> None:
        graph.node.remove(nodes["deep/conv2d/0:0"])

    edit_onnx(path, change)
    assert wrong(path) == {"deep/conv2d/0:0": "no DequantizeLinear follows"}


def test_onnx_one_head_that_reads_floats_is_named(copied: Callable[[str], Path]) -> None:
    path = copied("onnx")

    def change(graph: Any, nodes: dict[str, Any]) -> None:
        merged = next(nodes[name] for name in SHARED if name in nodes)
        source = nodes[f"{merged.name}/QuantizeLinear"].input[0]
        for node in graph.node:
            if node.op_type == "Conv" and "normals.weight" in nodes and node.name.endswith("normals/Conv"):
                assert node.input[0] == merged.output[0]
                node.input[0] = source

    edit_onnx(path, change)
    assert wrong(path) == {"normals/conv2d/0:0": "the artifact does not have it"}


def test_openvino_zero_points_are_found(copied: Callable[[str], Path]) -> None:
    path = copied("openvino")

    def change(model: Any, nodes: dict[str, Any]) -> None:
        from openvino import opset13 as op

        multiply = nodes["deep.weight"]
        shifted = op.subtract(multiply.input_value(0), op.constant(np.float32(3)))
        multiply.input(0).replace_source_output(shifted.output(0))

    edit_openvino(path, change)
    assert wrong(path) == {"deep.weight": "zero point 3, expected 0"}


def test_openvino_ranges_must_be_those_of_int8(copied: Callable[[str], Path]) -> None:
    path = copied("openvino")

    def change(model: Any, nodes: dict[str, Any]) -> None:
        quantize = nodes["deep/conv2d/0:0"]
        for port in (1, 3):
            quantize.input(port).replace_source_output(nodes["point/conv2d/0:0"].input_value(port))

    edit_openvino(path, change)
    named = wrong(path)
    assert list(named) == ["deep/conv2d/0:0"] and "expected -128..127 times one scale" in named["deep/conv2d/0:0"]


def test_openvino_quantizers_that_were_dropped_are_missed(copied: Callable[[str], Path]) -> None:
    path = copied("openvino")

    def change(model: Any, nodes: dict[str, Any]) -> None:
        for reader in nodes["deep/conv2d/0:0"].output(0).get_target_inputs():
            reader.replace_source_output(nodes["deep/conv2d/0:0"].input_value(0))
        merged = next(nodes[name] for name in SHARED if name in nodes)
        for reader in merged.output(0).get_target_inputs():
            if "normals" in reader.get_node().get_friendly_name():
                reader.replace_source_output(merged.input_value(0))

    edit_openvino(path, change)
    named = wrong(path)
    gone = "the artifact does not have it"
    assert named == {"deep/conv2d/0:0": gone, "normals/conv2d/0:0": gone}


def onnx_pair(nodes: dict[str, Any], name: str) -> list[Any]:
    return [nodes[f"{name}/QuantizeLinear"], nodes[name]]


def swap_onnx(graph: Any, nodes: dict[str, Any], first: str, second: str) -> None:
    for a, b in zip(onnx_pair(nodes, first), onnx_pair(nodes, second)):
        (a.name, a.input[1]), (b.name, b.input[1]) = (b.name, b.input[1]), (a.name, a.input[1])


def swap_openvino(model: Any, nodes: dict[str, Any], first: str, second: str) -> None:
    a, b = nodes[first], nodes[second]
    a.set_friendly_name("between")
    b.set_friendly_name(first)
    a.set_friendly_name(second)
    for port in range(1, 5):
        one, other = a.input_value(port), b.input_value(port)
        a.input(port).replace_source_output(other)
        b.input(port).replace_source_output(one)


def double_onnx(graph: Any, nodes: dict[str, Any], name: str) -> None:
    before, after = onnx_pair(nodes, name)
    end = after.output[0]
    for node, inside, outside in ((before, "codes again", "between"), (after, end, "codes again")):
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.name = ledger.node_name(name, 1) + node.name.removeprefix(name)
        copy.input[0], copy.output[0] = outside, inside
    after.output[0] = "between"


def double_openvino(model: Any, nodes: dict[str, Any], name: str) -> None:
    from openvino import opset13 as op

    node = nodes[name]
    readers = list(node.output(0).get_target_inputs())
    again = op.fake_quantize(node.output(0), *(node.input_value(port) for port in range(1, 5)), 256)
    again.set_friendly_name(ledger.node_name(name, 1))
    for reader in readers:
        reader.replace_source_output(again.output(0))


def bypass_onnx(graph: Any, nodes: dict[str, Any], name: str, layer: str) -> None:
    before, after = onnx_pair(nodes, name)
    [reader] = [node for node in graph.node if after.output[0] in node.input and layer in node.name]
    reader.input[:] = [before.input[0] if value == after.output[0] else value for value in reader.input]


def bypass_openvino(model: Any, nodes: dict[str, Any], name: str, layer: str) -> None:
    readers = nodes[name].output(0).get_target_inputs()
    [reader] = [reader for reader in readers if layer in reader.get_node().get_friendly_name()]
    reader.replace_source_output(nodes[name].input_value(0))


FAULTS: dict[str, dict[str, Any]] = {
    "openvino": {"edit": edit_openvino, "swap": swap_openvino, "double": double_openvino, "bypass": bypass_openvino},
    "onnx": {"edit": edit_onnx, "swap": swap_onnx, "double": double_onnx, "bypass": bypass_onnx},
}


@pytest.mark.parametrize("target", TARGETS)
def test_two_quantizers_on_each_others_tensors_are_found(target: str, copied: Callable[[str], Path]) -> None:
    path, faults = copied(target), FAULTS[target]
    first, second = "deep/conv2d/0:0", "sampled/conv2d/0:0"
    faults["edit"](path, lambda graph, nodes: faults["swap"](graph, nodes, first, second))
    named = wrong(path)
    assert {first, second, "deep.weight", "sampled.weight"} <= set(named)
    assert named[first].startswith("it stands on offset.weight, offset/conv2d/0:0, point.weight and 3 more, not stem.w")
    assert named["deep.weight"] == "its layer reads sampled/conv2d/0:0, not deep/conv2d/0:0"


@pytest.mark.parametrize("target", TARGETS)
def test_a_doubled_quantizer_is_found(target: str, copied: Callable[[str], Path]) -> None:
    path, faults = copied(target), FAULTS[target]
    faults["edit"](path, lambda graph, nodes: faults["double"](graph, nodes, "deep/conv2d/0:0"))
    assert wrong(path) == {"deep/conv2d/0:0": "2 places, the network has 1"}


@pytest.mark.parametrize("target", TARGETS)
def test_one_of_several_readers_that_takes_the_float_tensor_is_found(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quantizer behind an operation has one place and many readers; all numbers stay right."""
    made, heads = toy.deployed("int8", most=127), [f"pre_hooks.{task}/conv2d/0__0.0" for task in toy.TASKS]
    slots = quantizers.slots(made.network)
    behind = quantizers.FakeQuantize(slots[heads[0]].scale, None, "activation", "sum")
    for slot in heads:
        quantizers.remove(made.network, slot)
    quantizers.insert(made.network, "post_hooks./add/2__0.0", behind)
    run, faults = toy.write_run(tmp_path / "run"), FAULTS[target]
    toy.write_ledger(run, made)
    monkeypatch.setattr(weights, "load", lambda run, form: made)
    path = convert.convert(run, target=target)
    found = read_back(path)
    assert found["ok"] and found["text"].startswith("15 of 15 ") and not found["gone"]
    faults["edit"](path, lambda graph, nodes: faults["bypass"](graph, nodes, "sum", "normals"))
    assert list(wrong(path)) == ["normals.weight", "normals"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_map_under_anothers_name_is_found(target: str, copied: Callable[[str], Path]) -> None:
    path = copied(target)

    def swap(graph: Any, nodes: dict[str, Any]) -> None:
        if target == "onnx":
            depth, edge = (next(made for made in graph.output if made.name == task) for task in ("depth", "edge"))
            for node in graph.node:
                node.output[:] = [{"depth": "edge", "edge": "depth"}.get(value, value) for value in node.output]
        else:
            depth, edge = (next(port for port in graph.outputs if task in port.names) for task in ("depth", "edge"))
            for port, name in ((depth, "between"), (edge, "depth"), (depth, "edge")):
                port.get_tensor().set_names({name})

    FAULTS[target]["edit"](path, swap)
    named = wrong(path)
    assert set(named) == {"depth", "edge"} and named["depth"].startswith("the map comes from edge.weight, ")
    assert named["edge"].startswith("the map comes from depth.weight, ")


@pytest.mark.parametrize("target", TARGETS)
def test_codes_of_eight_bits_are_marked(
    target: str, run: Path, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert artifact.read(run / target).needs == ("VNNI",)
    found = read_back(run / target)
    assert found["ok"] and found["needs"] == ["VNNI"] and found["overflow"].startswith("needs VNNI: two codes of ")
    assert f"codes: {found['overflow']}" in capsys.readouterr().out
    path = copied(target)
    manifest = json.loads((path / artifact.FILE).read_text())
    (path / artifact.FILE).write_text(json.dumps(manifest | {"needs": []}))
    with pytest.raises(CheckFailed, match="the manifest says that it needs nothing, its codes need VNNI; conv"):
        read_back(path)


@pytest.mark.parametrize("target", TARGETS)
def test_codes_of_seven_bits_cannot_overflow(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, run = toy.deployed("int8", most=127), toy.write_run(tmp_path / "run")
    for quantizer in quantizers.quantizers(made.network):
        if quantizer.role == "weight":
            weight = made.network.get_parameter(quantizer.name)
            quantizer.scale.mul_(2)
            codes = quantizers.codes(weight, quantizer.scale, quantizer.axis, 7)
            weight.copy_(quantizers.decode(codes, quantizer.scale, quantizer.axis))
    toy.write_ledger(run, made)
    monkeypatch.setattr(weights, "load", lambda run, form: made)
    path = convert.convert(run, target=target)
    assert artifact.read(path).needs == ()
    found = read_back(path)
    assert found["ok"] and found["needs"] == [] and found["overflow"].startswith("no overflow: the largest pair of ")
    assert found["overflow"].endswith(", 9 weights, 77 channels")


def test_sums_beyond_what_float32_holds_fail_where_scales_are_powers_of_two(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied("onnx")
    monkeypatch.setattr(overflow, "SUM", 1 << 17)
    assert read_back(path)["ok"]
    really = ledger.read
    monkeypatch.setattr(ledger, "read", lambda path: really(path)._replace(scales="power of two"))
    with pytest.raises(CheckFailed, match=r"the accumulator of channel \d+ of \w+.weight can reach .* keep that layer"):
        read_back(path)


def test_the_ledger_of_other_weights_is_refused(copied: Callable[[str], Path]) -> None:
    path = copied("openvino")
    file = path.parent / "scales.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sha256": "f" * 64}))
    with pytest.raises(CheckFailed, match="scales.json is the ledger of other weights than the artifact was made of"):
        read_back(path)


def test_a_ledger_elsewhere_is_found_by_its_run(run: Path, copied: Callable[[str], Path], tmp_path: Path) -> None:
    path = shutil.move(copied("onnx"), tmp_path / "alone")
    with pytest.raises(UsageError, match="scales.json does not exist"):
        read_back(path)
    assert read_back(path, run=tmp_path / "run")["ok"]


def test_float_artifacts_have_no_ledger(run: Path) -> None:
    with pytest.raises(UsageError, match="openvino-fp32 is fp32: only int8 artifacts have a ledger"):
        read_back(run / "openvino-fp32")


@pytest.mark.parametrize("target", TARGETS)
def test_reading_back_needs_no_torch(run: Path, target: str) -> None:
    code = """if True:
        import sys
        from edgemtl.cli import main
        status = main(["verify", sys.argv[1], "--ledger"])
        assert "torch" not in sys.modules
        sys.exit(status)
    """
    ended = subprocess.run([sys.executable, "-c", code, str(run / target)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "ledger: 18 of 18 entries bit-equal" in ended.stdout
