"""The form for WebAssembly: the same integers as the CPU's file, and no int8 layer that is slow there."""

from pathlib import Path

import numpy as np
import pytest

from edgemtl.records.target import Original
from edgemtl.targets import _onnx
from edgemtl.targets.onnx import FILE, WASM, WEBGPU, cpu, target, wasm
from tests import toy

onnx = pytest.importorskip("onnx")
numpy_helper = pytest.importorskip("onnx.numpy_helper")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow


@pytest.fixture
def model(folder: Path) -> "onnx.ModelProto":
    return onnx.load(folder / WASM)


def test_it_holds_the_integers_of_the_cpus_file(folder: Path) -> None:
    held = target.quantized(folder)
    one, other = (sorted(held[name], key=lambda found: found.name) for name in (FILE, WASM))
    assert [found._replace(scale=0, codes=None) for found in one] == [f._replace(scale=0, codes=None) for f in other]
    assert [found.sha256 for found in one] == [found.sha256 for found in other]
    assert all(a.scale.tobytes() == b.scale.tobytes() and b.problem is None for a, b in zip(one, other, strict=True))
    graphs = [onnx.load(folder / name).graph for name in (FILE, WASM)]
    assert cpu.places(graphs[0]) == cpu.places(graphs[1])


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_it_computes_the_same(folder: Path, level: str) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    sessions = [onnxruntime.InferenceSession(str(folder / name), options) for name in (FILE, WASM)]
    frame = toy.frames(1)[0][None]
    for one, other in zip(*(session.run(None, {"frame": frame}) for session in sessions)):
        np.testing.assert_array_equal(one, other)


def test_what_is_slow_there_stays_float(folder: Path, tmp_path: Path) -> None:
    kinds = {}
    for name in (FILE, WASM):
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.optimized_model_filepath = 3, str(tmp_path / name)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(str(folder / name), options)
        graph = onnx.load(tmp_path / name).graph
        shapes = {stored.name: list(stored.dims) for stored in graph.initializer}
        kinds[name] = [shapes[node.input[3]] for node in graph.node if node.op_type == "QLinearConv"]
    slow = [shape for shape in kinds[FILE] if shape[1] == 1 or np.prod(shape[1:]) <= wasm.FEW]
    assert slow and kinds[WASM] == [shape for shape in kinds[FILE] if shape not in slow]


def brings_back(model: "onnx.ModelProto", kind: str) -> "onnx.NodeProto":
    """The first operation of a kind on an activation's codes."""
    codes = {value for node in model.graph.node if node.op_type == "QuantizeLinear" for value in node.output}
    cast = next(n for n in model.graph.node if n.op_type == "Cast" and n.input[0] in codes)  # not behind a Clip
    below = next(node for node in model.graph.node if cast.output[0] in node.input)
    assert below.op_type == "Sub"
    return below if kind == "Sub" else next(node for node in model.graph.node if below.output[0] in node.input)


@pytest.mark.parametrize("kind", ["Sub", "Mul"])
def test_another_number_is_found(model: "onnx.ModelProto", tmp_path: Path, kind: str) -> None:
    node = brings_back(model, kind)
    constants = _onnx._constants(model.graph)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(constants[node.input[1]] * 1.5), "other"))
    node.input[1] = "other"
    onnx.save(model, tmp_path / WASM)
    assert any(found.problem for found in cpu.quantized(tmp_path / WASM))


def test_8_bit_weights_have_no_such_file(tmp_path: Path) -> None:
    wide = Original(toy.deployed("int8", most=127), toy.SIZE, toy.TASKS, "int8", {})
    assert target.convert(wide, tmp_path) == [FILE, WEBGPU] and set(target.quantized(tmp_path)) == {FILE, WEBGPU}
