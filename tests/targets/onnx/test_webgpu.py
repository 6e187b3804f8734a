"""The form for WebGPU: the same integers as the Q/DQ file, read back from its bytes, and the same results."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgemtl.records import ledger
from edgemtl.targets.onnx import FILE, WASM, WEBGPU, cpu, webgpu
from tests import toy

onnx = pytest.importorskip("onnx")
numpy_helper = pytest.importorskip("onnx.numpy_helper")

pytestmark = pytest.mark.slow


@pytest.fixture
def model(folder: Path) -> "onnx.ModelProto":
    return onnx.load(folder / WEBGPU)


def test_only_int8_has_it(converted: Callable[..., Path]) -> None:
    assert {file.name for file in converted("onnx").iterdir()} == {FILE, WEBGPU, WASM}
    assert {file.name for file in converted("onnx", "fp32").iterdir()} == {FILE}


def test_it_holds_the_integers_of_the_other_file(folder: Path) -> None:
    first, second = (
        {(one.role, one.name): one for one in read(folder / name)}
        for read, name in ((cpu.quantized, FILE), (webgpu.quantized, WEBGPU))
    )
    assert first.keys() == second.keys() and {role for role, _ in first} == {"weight", "activation", "output"}
    for key, one in first.items():
        other = second[key]
        assert (one.role, one.bits, one.axis, one.sha256) == (other.role, other.bits, other.axis, other.sha256)
        assert (
            one.scale.tobytes() == other.scale.tobytes() and one.readers == other.readers and one.reads == other.reads
        )
        assert one.problem is None and other.problem is None


def test_nothing_that_webgpu_lacks_is_left(model: "onnx.ModelProto") -> None:
    onnx.checker.check_model(model, full_check=True)
    assert not {node.op_type for node in model.graph.node} & {"QuantizeLinear", "Round"}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_it_is_hardly_larger(folder: Path) -> None:
    # Weights stay int8; a quantizer costs three more operations.
    assert (folder / WEBGPU).stat().st_size < (folder / FILE).stat().st_size + 1000 * len(toy.LAYERS)


def test_it_computes_the_same(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [onnxruntime.InferenceSession(folder / name, options) for name in (FILE, WEBGPU)]
    for frame in toy.frames():
        for one, other in zip(*(session.run(None, {"frame": frame[None]}) for session in sessions)):
            np.testing.assert_array_equal(one, other)


def chain(scale: float, values: np.ndarray) -> "onnx.ModelProto":
    """A Q/DQ model of one quantizer named x."""
    make = onnx.helper
    graph = make.make_graph(
        [
            make.make_node("QuantizeLinear", ["v", "x/scale", "zero"], ["q"], "x/QuantizeLinear"),
            make.make_node("DequantizeLinear", ["q", "x/scale", "zero"], ["y"], "x"),
        ],
        "one",
        [make.make_tensor_value_info("v", onnx.TensorProto.FLOAT, values.shape)],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, values.shape)],
        [numpy_helper.from_array(np.float32(scale), "x/scale"), numpy_helper.from_array(np.int8(0), "zero")],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("scale", [2.0**-9, 1.0, 8.0, 0.0123])
def test_ties_and_large_values_round_as_they_should(scale: float) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    ties = (np.arange(-300, 300) + 0.5) * np.float32(scale)
    large = np.float32([2.0**22, 2.0**23 + 1, 12582912, -12582912, -(2.0**24), 1e30, -1e30, np.inf, -np.inf])
    near = np.nextafter(ties, np.float32(0))
    values = np.concatenate([ties, near, large]).astype(np.float32)
    model = chain(scale, values)
    plain, made = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"v": values})
        for m in (model, webgpu.rewritten(model))
    )
    np.testing.assert_array_equal(plain[0], made[0])


def constant(model: "onnx.ModelProto", name: str, value: float) -> None:
    [stored] = [stored for stored in model.graph.initializer if stored.name == name]
    stored.CopyFrom(numpy_helper.from_array(np.float32(value), name))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("round", 8388608, "it rounds by"),
        ("lowest", -127, "its codes end at"),
        ("x/reciprocal", 2, "it begins with Mul 2"),
        ("x/scale", 0.125, "it begins with Mul 4"),
    ],
)
def test_a_changed_constant_is_a_problem(tmp_path: Path, name: str, value: float, problem: str) -> None:
    model = webgpu.rewritten(chain(0.25, np.zeros(3)))
    onnx.save(model, tmp_path / "good.onnx")
    good, made = webgpu.quantized(tmp_path / "good.onnx")
    assert made == ledger.output("y", ("x",))
    assert good.name == "x" and good.scale == np.float32(0.25) and good.problem is None
    constant(model, name, value)
    onnx.save(model, tmp_path / "bad.onnx")
    bad, _ = webgpu.quantized(tmp_path / "bad.onnx")
    assert bad.problem is not None and problem in bad.problem


def test_a_quantizer_without_its_rounding_is_not_found(tmp_path: Path) -> None:
    model = webgpu.rewritten(chain(0.25, np.zeros(3)))
    add, sub = (next(node for node in model.graph.node if node.op_type == kind) for kind in ("Add", "Sub"))
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    clip.input[0] = add.input[0]
    for node in (add, sub):
        model.graph.node.remove(node)
    onnx.save(model, tmp_path / "bad.onnx")
    assert webgpu.quantized(tmp_path / "bad.onnx") == [ledger.output("y", ())]
