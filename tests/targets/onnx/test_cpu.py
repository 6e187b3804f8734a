"""The form for ONNX Runtime's CPU provider: the same integers as plain Q/DQ, and its int8 kernels take them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgemtl.records.target import Original
from edgemtl.targets import _onnx
from edgemtl.targets.onnx import FILE, cpu
from tests import toy

onnx = pytest.importorskip("onnx")
numpy_helper = pytest.importorskip("onnx.numpy_helper")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def original() -> "onnx.ModelProto":
    return _onnx.build(Original(toy.deployed("int8"), toy.SIZE, toy.TASKS, "int8"), "onnx")


def session(model: "onnx.ModelProto", **options: object) -> "onnxruntime.InferenceSession":
    chosen = onnxruntime.SessionOptions()
    for name, value in options.items():
        setattr(chosen, name, value)
    return onnxruntime.InferenceSession(model.SerializeToString(), chosen, providers=["CPUExecutionProvider"])


def optimised(model: "onnx.ModelProto", file: Path) -> "onnx.ModelProto":
    session(model, optimized_model_filepath=str(file), log_severity_level=3)
    return onnx.load(file)


def test_it_is_what_is_written(original: "onnx.ModelProto", converted: Callable[..., Path]) -> None:
    written = onnx.load(converted("onnx") / FILE)
    kinds = [Counter(n.op_type for n in m.graph.node) for m in (written, cpu.rewritten(original))]
    assert kinds[0] == kinds[1] != Counter(n.op_type for n in original.graph.node)


def test_weights_that_overflow_beside_unsigned_codes_keep_signed_ones(converted: Callable[..., Path]) -> None:
    graph = onnx.load(converted("onnx", most=127) / FILE).graph
    types = {numpy_helper.to_array(value).dtype for value in graph.initializer}
    assert np.dtype(np.int8) in types and np.dtype(np.uint8) not in types


def test_it_holds_the_integers_of_the_plain_file(original: "onnx.ModelProto", tmp_path: Path) -> None:
    made = cpu.rewritten(original)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, tmp_path / "made.onnx")
    one, other = _onnx.read_quantized(original.graph), cpu.quantized(tmp_path / "made.onnx")
    assert [found._replace(scale=0, codes=None) for found in one] == [f._replace(scale=0, codes=None) for f in other]
    assert [found.sha256 for found in one] == [found.sha256 for found in other]
    assert all(a.scale.tobytes() == b.scale.tobytes() and b.problem is None for a, b in zip(one, other, strict=True))
    assert _onnx.places(original.graph) == cpu.places(made.graph)


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_it_computes_the_same(original: "onnx.ModelProto", level: str) -> None:
    plain = session(original, graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    made = session(cpu.rewritten(original), graph_optimization_level=getattr(onnxruntime.GraphOptimizationLevel, level))
    for frame in toy.frames():
        for one, other in zip(*(s.run(None, {"frame": frame[None]}) for s in (plain, made))):
            np.testing.assert_array_equal(one, other)


def test_layers_between_codes_run_in_int8(original: "onnx.ModelProto", tmp_path: Path) -> None:
    graph = original.graph
    makers = {node.output[0]: node for node in graph.node}
    readers = {value: [n for n in graph.node if value in n.input] for node in graph.node for value in node.output}
    able = [n for n in graph.node if n.op_type == "Conv" and cpu._int8(n, makers, readers)]
    before, after = (optimised(m, tmp_path / "optimised.onnx").graph for m in (original, cpu.rewritten(original)))
    counts = [Counter(node.op_type for node in made.node) for made in (before, after)]
    assert counts[0]["QLinearConv"] < counts[1]["QLinearConv"] == len(able)
    stored = {value.name for value in after.initializer}
    assert not [n for n in after.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]


def ends(values: np.ndarray, kind: str, scale: float) -> "onnx.ModelProto":
    """A Q/DQ model of one quantizer named x behind a ReLU or a clip to 0..6."""
    make = onnx.helper
    stored = {"x/scale": np.float32(scale), "zero": np.int8(0), "low": np.float32(0), "high": np.float32(6)}
    graph = make.make_graph(
        [
            make.make_node(kind, ["v", "low", "high"][: 3 if kind == "Clip" else 1], ["r"], "r"),
            make.make_node("QuantizeLinear", ["r", "x/scale", "zero"], ["q"], "x/QuantizeLinear"),
            make.make_node("DequantizeLinear", ["q", "x/scale", "zero"], ["y"], "x"),
        ],
        "one",
        [make.make_tensor_value_info("v", onnx.TensorProto.FLOAT, values.shape)],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, values.shape)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", ["Relu", "Clip"])
@pytest.mark.parametrize("scale", [2.0**-5, 2.0**-4, 4.0, 0.0123])
def test_clipping_codes_is_clipping_values(kind: str, scale: float) -> None:
    ties = (np.arange(-300, 600) + 0.5) * np.float32(scale)
    values = np.concatenate([ties, np.nextafter(ties, np.float32(0)), [6, 1e30, -1e30]]).astype(np.float32)
    plain = ends(values, kind, scale)
    made = cpu.rewritten(plain)
    assert [node.op_type for node in made.graph.node] == ["QuantizeLinear", "Clip", "DequantizeLinear"]
    one, other = (session(m).run(None, {"v": values})[0] for m in (plain, made))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "value"), [("zero/unsigned", 1), ("highest/96", 128)])
def test_a_changed_constant_is_a_problem(tmp_path: Path, name: str, value: int) -> None:
    model = cpu.rewritten(ends(np.zeros(3, np.float32), "Clip", 0.0625))
    onnx.save(model, tmp_path / "good.onnx")
    [stored] = [stored for stored in model.graph.initializer if stored.name == name]
    stored.CopyFrom(numpy_helper.from_array(np.uint8(value), name))
    onnx.save(model, tmp_path / "bad.onnx")
    good, bad = (
        [one.problem for one in cpu.quantized(tmp_path / f"{name}.onnx") if one.role == "activation"]
        for name in ("good", "bad")
    )
    assert good == [None] and bad[0]


@pytest.mark.parametrize("what", ["codes", "zero", "order"])
def test_a_product_of_something_else_is_found(folder: Path, tmp_path: Path, what: str) -> None:
    model = onnx.load(folder / FILE)
    makers = {node.output[0]: node for node in model.graph.node}
    product = next(n for n in model.graph.node if n.op_type == "MatMulInteger" and n.input[0] in makers)
    if what == "codes":
        flat = makers[makers[product.input[1]].input[0]]
        other = numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == flat.input[0])) + 1
        model.graph.initializer.append(numpy_helper.from_array(other, "other"))
        flat.input[0] = "other"
    elif what == "zero":
        [product.input[2]] = {cpu.SIGNED, cpu.UNSIGNED} - {product.input[2]}
    else:
        [order] = makers[product.input[0]].attribute
        order.ints[:] = [0, 3, 2, 1]
    onnx.save(model, tmp_path / FILE)
    good, bad = ({(one.name, one.sha256, one.readers) for one in cpu.quantized(at / FILE)} for at in (folder, tmp_path))
    assert good != bad


@pytest.mark.parametrize("after", ["Reshape", "Mul", "Relu", "Add"])
@pytest.mark.parametrize("step", [0.25, 0.3])
def test_what_follows_a_layer_changes_no_weight(after: str, step: float) -> None:
    """With a scale that is no power of two scales could not be told apart again: there the layer stays one."""
    make, rng = onnx.helper, np.random.default_rng(0)
    codes = rng.integers(-50, 50, (4, 8, 1, 1)).astype(np.int8)
    stored = {
        "in/scale": np.float32(step), "zero": np.int8(0), "w/codes": codes, "w/scale": np.float32([0.5, 1, 2, 4]),
        "w/zero": np.zeros(4, np.int8), "bias": np.float32([1, 2, 3, 4]), "out/scale": np.float32(4),
        "shape": np.array([1, 4, 30]), "third": np.float32(1 / 3),
    }  # fmt: skip
    taken = {"Reshape": ["c", "shape"], "Mul": ["c", "third"], "Relu": ["c"], "Add": ["c", "c"]}[after]
    graph = make.make_graph(
        [
            make.make_node("QuantizeLinear", ["v", "in/scale", "zero"], ["q"], "in/QuantizeLinear"),
            make.make_node("DequantizeLinear", ["q", "in/scale", "zero"], ["x"], "in"),
            make.make_node("DequantizeLinear", ["w/codes", "w/scale", "w/zero"], ["w"], "w", axis=0),
            make.make_node("Conv", ["x", "w", "bias"], ["c"], "layer"),
            make.make_node(after, taken, ["r"], "after"),
            make.make_node("QuantizeLinear", ["r", "out/scale", "zero"], ["p"], "out/QuantizeLinear"),
            make.make_node("DequantizeLinear", ["p", "out/scale", "zero"], ["y"], "out"),
        ],
        "one",
        [make.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [1, 8, 5, 6])],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    plain = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    none = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = cpu.rewritten(plain)
    assert ("MatMulInteger" in [node.op_type for node in made.graph.node]) == (step == 0.25 and after == "Add")
    [held] = [found for found in _onnx.read_quantized(cpu.plain(made).graph) if found.role == "weight"]
    assert held.name == "w" and held.codes.tobytes() == codes.tobytes() and held.scale.tolist() == [0.5, 1, 2, 4]
    sessions = session(plain, graph_optimization_level=none), session(made)
    values = rng.uniform(-30, 30, (1, 8, 5, 6)).astype(np.float32)
    one, other = (s.run(None, {"v": values})[0] for s in sessions)
    np.testing.assert_array_equal(one, other)


def test_softplus_spelled_out() -> None:
    make, values = onnx.helper, np.concatenate([np.linspace(-110, 110, 2001), [-1e30, 0, 1e30]]).astype(np.float32)
    graph = make.make_graph(
        [make.make_node("Softplus", ["v"], ["y"], "softplus")],
        "one",
        [make.make_tensor_value_info("v", onnx.TensorProto.FLOAT, values.shape)],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, values.shape)],
    )
    made = cpu.spelled_out(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8))
    onnx.checker.check_model(made, full_check=True)
    assert "Softplus" not in {node.op_type for node in made.graph.node}
    wanted = np.logaddexp(0, values.astype(np.float64))
    np.testing.assert_allclose(session(made).run(None, {"v": values})[0], wanted, rtol=2e-7, atol=1e-7)
