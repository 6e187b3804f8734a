"""verify and faults between the quantizers of each target's files: what is computed there, and who reads what.

The toy is an island from its first operation on, so that no code is certain: its maps and layers have to show it. The
manifest is mended, and the ledger holds but for who reads what.
"""

import shutil
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from edgemtl.deployment import convert, verify
from edgemtl.ground.errors import CheckFailed
from edgemtl.quantization import weights
from tests import toy

pytestmark = pytest.mark.slow

ONNX = {"onnx": ("model.onnx", "model.webgpu.onnx", "model.wasm.onnx"), "tensorrt": ("model.onnx", "model.fp16.onnx")}
FILES = [(target, file) for target, files in ONNX.items() for file in files]
FILES += [("openvino", "model.xml"), ("coreml", "")]
PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime", "tensorrt": "onnxruntime", "coreml": "coremltools"}
FAULTS = ("mean", "red", "resize", "float")  # 2 grey levels, 5 % too strong, its rule, read in place of codes
MEAN, RED = np.full((1, 1, 1, 1), 2.0, np.float32), np.float32([1.05, 1, 1]).reshape(1, 3, 1, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    network, folder = toy.deployed("int8"), toy.write_run(tmp_path_factory.mktemp("runs") / "run")
    toy.write_ledger(folder, network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load", lambda run, form: network)
        patch.setattr(verify, "frames_of", lambda stated, data, count: ("smooth frames", toy.frames(count)))
        yield folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Callable[[str], Path]:
    def made(target: str) -> Path:
        pytest.importorskip(PACKAGES[target])
        if not (run / target).is_dir():
            convert.convert(run, target=target)
        return Path(shutil.copytree(run / target, tmp_path / target))

    return made


@pytest.mark.parametrize("target", PACKAGES)
def test_sound_files_pass(run: Path, copy: Callable[[str], Path], target: str) -> None:
    assert verify.verify(copy(target), run=run, frames=2)["ok"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("target", "file"), FILES)
def test_a_fault_is_found(run: Path, copy: Callable[[str], Path], target: str, file: str, fault: str) -> None:
    folder = copy(target)
    {"openvino": in_openvino, "coreml": in_coreml}.get(target, in_onnx)(folder, file, fault)
    toy.mend(folder)
    with pytest.raises(CheckFailed):
        verify.verify(folder, run=run, frames=2)


# ---- planting them


def in_onnx(folder: Path, file: str, fault: str) -> None:
    import onnx
    from onnx import helper, numpy_helper

    from edgemtl.targets.onnx import webgpu

    model = onnx.load(folder / file)
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    if fault in ("mean", "red"):
        value = "frame"
        for _ in range(2):  # to float, to planes
            [value] = next(node for node in graph.node if value in node.input).output
        readers = [node for node in graph.node if value in node.input]
        constant, operation = (MEAN, "Add") if fault == "mean" else (RED, "Mul")
        graph.initializer.append(numpy_helper.from_array(constant, "fault"))
        for node in readers:
            node.input[list(node.input).index(value)] = "faulty"
        at = min(list(graph.node).index(node) for node in readers)
        graph.node.insert(at, helper.make_node(operation, [value, "fault"], ["faulty"], "fault"))
    elif fault == "resize":
        last = [node for node in graph.node if node.op_type == "Resize"][-1]
        [rule] = [made for made in last.attribute if made.name == "coordinate_transformation_mode"]
        rule.s = b"asymmetric"
    else:
        _, chains = webgpu._chains(graph)
        pairs = {value: chain[-1].input[0] for value, chain in chains.items()}
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in makers:
                pairs[node.output[0]] = makers[node.input[0]].input[0]
        layers = {node.name.split("/")[-2]: node for node in graph.node if node.op_type == "Conv"}
        reader = layers.get("offset") or layers["deep"]  # a product of whole numbers reads no others
        reader.input[0] = pairs[reader.input[0]]
    onnx.save(model, folder / file)


def in_openvino(folder: Path, file: str, fault: str) -> None:
    import openvino as ov
    from openvino import opset13 as op

    model = ov.Core().read_model(folder / file)
    nodes: dict[str, list[Any]] = {}
    for node in model.get_ordered_ops():
        nodes.setdefault(node.get_type_name(), []).append(node)

    if fault in ("mean", "red"):
        [turned] = [node for node in nodes["Transpose"] if list(node.get_output_shape(0)) == [1, 3, *toy.SIZE]]
        readers = list(turned.output(0).get_target_inputs())
        made = op.add(turned, op.constant(MEAN)) if fault == "mean" else op.multiply(turned, op.constant(RED))
        for reader in readers:
            reader.replace_source_output(made.output(0))
    elif fault == "resize":
        nodes["Interpolate"][-1].set_attribute("coordinate_transformation_mode", "asymmetric")
    else:
        quantizer = next(node for node in nodes["FakeQuantize"] if "offset" in node.get_friendly_name())
        for reader in quantizer.output(0).get_target_inputs():
            reader.replace_source_output(quantizer.input_value(0))
    ov.save_model(model, folder / "new.xml", compress_to_fp16=False)
    for suffix in ("xml", "bin"):
        (folder / f"new.{suffix}").rename(folder / f"model.{suffix}")


def in_coreml(folder: Path, _: str, fault: str) -> None:
    from edgemtl.targets.coreml import package
    from edgemtl.targets.coreml.readback import activations
    from tests.targets.coreml.programs import setting
    from tests.targets.coreml.test_damage import write

    path = folder / package.FOLDER
    read = package.read(path)
    operations = list(read.main.operations)

    def change(operation: Any, key: str, new: Callable[[np.ndarray], np.ndarray]) -> None:
        value = setting(read.main, operation, key)
        held = np.asarray(read.constant(value))
        write(value, np.asarray(new(held)).astype(held.dtype) if held.dtype.kind == "f" else new(held), path)

    def first(kind: str) -> Any:
        return next(made for made in operations if made.type == kind)

    if fault == "mean":
        change(first("sub"), "y", lambda mean: mean - 2)
    elif fault == "red":
        change(first("mul"), "y", lambda scale: scale * RED)
    elif fault == "resize":
        last = [made for made in operations if made.type == "upsample_bilinear"][-1]
        change(last, "align_corners", lambda held: np.array(not held))
    else:
        names = {name: value for value, name in activations(read).items()}
        codes = next(made for made in operations if made.outputs[0].name == names["offset/conv2d/0:0"])
        made_by = {made.outputs[0].name: made for made in operations}
        floats = made_by[codes.inputs["input"].arguments[0].name].inputs["input"].arguments[0].name
        for made in operations:
            for argument in made.inputs.values():
                for binding in argument.arguments:
                    if binding.name == codes.outputs[0].name:
                        binding.name = floats
    (path / package.MODEL).write_bytes(read.model.SerializeToString())
