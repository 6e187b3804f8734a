"""What an ONNX artifact holds, and what happens when onnxsim misbehaves."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgemtl.records.target import Original
from edgemtl.targets import _onnx as module
from edgemtl.targets.onnx import cpu, target
from tests import toy

onnx = pytest.importorskip("onnx")
numpy_helper = pytest.importorskip("onnx.numpy_helper")

pytestmark = pytest.mark.slow
MANIFEST = SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE)


def plain_form(folder: Path) -> "onnx.ModelProto":
    return cpu.plain(onnx.load(folder / "model.onnx"))


@pytest.fixture(scope="module")
def model(converted: Callable[..., Path]) -> "onnx.ModelProto":
    return plain_form(converted("onnx"))


def constants(model: "onnx.ModelProto") -> dict[str, np.ndarray]:
    found = {made.name: numpy_helper.to_array(made) for made in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def test_version_inputs_outputs_and_metadata(model: "onnx.ModelProto") -> None:
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    (frame,) = model.graph.input
    assert frame.name == "frame" and frame.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [axis.dim_value for axis in frame.type.tensor_type.shape.dim] == [1, *toy.SIZE, 3]
    assert [output.name for output in model.graph.output] == list(toy.TASKS)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"recipe": "toy"}
    assert "GridSample" in {node.op_type for node in model.graph.node}


def test_scales_are_positive_and_zero_points_are_int8_zeros(model: "onnx.ModelProto") -> None:
    known = constants(model)
    into = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    back = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert 0 < len(into) <= len(toy.LAYERS)  # onnxsim makes one of several equal ones
    assert len(back) == len(into) + len(toy.LAYERS)
    for node in into + back:
        scale, zero = known[node.input[1]], known[node.input[2]]
        assert scale.dtype == np.float32 and (scale > 0).all()
        assert zero.dtype == np.int8 and zero.shape == scale.shape and not zero.any()


def test_weights_are_stored_as_int8_and_biases_as_float(model: "onnx.ModelProto") -> None:
    known = constants(model)
    makers = {node.output[0]: node for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(layers) == len(toy.LAYERS)
    for layer in layers:
        weight = makers[layer.input[1]]
        assert weight.op_type == "DequantizeLinear" and {a.name: a.i for a in weight.attribute}["axis"] == 0
        assert known[weight.input[0]].dtype == np.int8
        assert known[layer.input[2]].dtype == np.float32
        assert makers[layer.input[0]].op_type == "DequantizeLinear"


def test_int8_is_a_quarter_of_fp32(converted: Callable[..., Path], model: "onnx.ModelProto") -> None:
    def weight_bytes(model: "onnx.ModelProto") -> int:
        return sum(value.nbytes for value in constants(model).values() if value.ndim == 4 and len(value) > 1)

    assert weight_bytes(plain_form(converted("onnx", "fp32"))) == 4 * weight_bytes(model)


def test_the_file_gets_the_codes_that_are_given_and_computes_none() -> None:
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.001, 0.1, 64).astype(np.float32)
    weight = (rng.integers(-127, 127, (64, 5)) * scale[:, None]).astype(np.float32)
    codes = rng.integers(-64, 64, (64, 5)).astype(np.int8)
    make = onnx.helper
    graph = make.make_graph(
        [
            make.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], "/@deep%2Eweight@/QuantizeLinear", axis=0),
            make.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=0),
        ],
        "one",
        [],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, weight.shape)],
        [
            numpy_helper.from_array(value, name)
            for name, value in (("w", weight), ("s", scale), ("z", np.zeros(64, np.int8)))
        ],
    )
    model = make.make_model(graph)
    module.store_int8(model, {"deep.weight": codes})
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear"]
    np.testing.assert_array_equal(constants(model)["q"], codes)


def plain(tmp_path: Path) -> tuple[Path, Path]:
    """A small graph that computes `depth` from `frame`, and where its simplified form is to go."""
    make = onnx.helper
    graph = make.make_graph(
        [
            make.make_node("Cast", ["frame"], ["float"], to=onnx.TensorProto.FLOAT),
            make.make_node("Mul", ["float", "gain"], ["depth"]),
        ],
        "small",
        [make.make_tensor_value_info("frame", onnx.TensorProto.UINT8, [1, 4, 4, 3])],
        [make.make_tensor_value_info("depth", onnx.TensorProto.FLOAT, [1, 4, 4, 3])],
        [numpy_helper.from_array(np.float32(0.5), "gain")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "plain.onnx")
    return tmp_path / "plain.onnx", tmp_path / "simple.onnx"


def simplifier(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Puts a script in onnxsim's place; it finds both paths in sys.argv."""
    monkeypatch.setattr(module, "SIMPLIFIER", (sys.executable, "-c", code))


def test_a_simplified_graph_that_computes_the_same_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("onnxsim")
    source, result = plain(tmp_path)
    assert module.simplify(source, result) is None
    assert result.is_file()


def test_a_simplifier_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simplifier(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(module, "SIMPLIFIER_SECONDS", 0.5)
    assert module.simplify(*plain(tmp_path)) == "onnxsim took longer than 0.5 s"


def test_a_simplifier_that_crashes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simplifier(monkeypatch, "import sys; sys.exit('no such operator')")
    assert module.simplify(*plain(tmp_path)) == "onnxsim ended with status 1: no such operator"


def test_a_simplified_graph_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys, onnx, numpy as np\nm = onnx.load(sys.argv[1])\nm.graph.initializer[0].CopyFrom("
    code += "onnx.numpy_helper.from_array(np.float32(0.51), 'gain'))\nonnx.save(m, sys.argv[2])"
    simplifier(monkeypatch, code)
    assert module.simplify(*plain(tmp_path)) == "it computes another depth"


def test_the_unsimplified_graph_is_kept_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    simplifier(monkeypatch, "import sys; sys.exit(3)")
    target.convert(Original(toy.deployed("int8"), toy.SIZE, toy.TASKS, "int8"), tmp_path)
    model = plain_form(tmp_path)
    assert "keeping the unsimplified graph: onnxsim ended with status 3" in capsys.readouterr().err
    test_weights_are_stored_as_int8_and_biases_as_float(model)
    test_scales_are_positive_and_zero_points_are_int8_zeros(model)
    onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
