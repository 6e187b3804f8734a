"""Copies of an artifact's files in which every quantizer's codes are outputs as well, and the list of them.

probed.json: {"tasks": [...], "codes": {place: [output, scale]}}; where the output holds codes, the scale is null.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.ground.files import write_json
from edgemtl.records import ledger
from edgemtl.targets import _onnx

LIST = "probed.json"


def onnx(file: Path, folder: Path, tasks: list[str]) -> Path:
    """model.onnx, probed.onnx and the list in `folder`, from a file with Q/DQ or in the form for WebGPU."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / "model.onnx")
    model = onnx.load(file)
    makers = {output: node for node in model.graph.node for output in node.output}
    codes: dict[str, Any] = {}
    zero = "probe/zero"
    model.graph.initializer.append(numpy_helper.from_array(np.int8(0), zero))
    for node in list(model.graph.node):
        place = node.name.removesuffix("/Clip").removesuffix(_onnx.QUANTIZE)
        if node.op_type == "DequantizeLinear" and node.input[0] in makers:  # whatever codes it has: once more, in int8
            made = helper.make_node("QuantizeLinear", [node.output[0], node.input[1], zero], [f"{node.name}/probe"])
            model.graph.node.append(made)
            codes[node.name], type_ = [made.output[0], None], TensorProto.INT8
        elif node.op_type == "Clip" and place != node.name and makers[node.input[0]].op_type == "Sub":
            codes[place], type_ = [node.output[0], None], TensorProto.FLOAT
        else:
            continue
        model.graph.output.append(helper.make_tensor_value_info(codes[place][0], type_, None))
    assert codes, f"{file} has no quantizers"
    onnx.save(model, folder / "probed.onnx")
    write_json(folder / LIST, {"tasks": tasks, "codes": codes})
    return folder


def openvino(file: Path, folder: Path, tasks: list[str]) -> Path:
    """model.xml, probed.xml, their .bin and the list in `folder`."""
    import openvino as ov
    from openvino import opset13

    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".xml", ".bin"):
        shutil.copyfile(file.with_suffix(suffix), folder / f"model{suffix}")
    model = ov.Core().read_model(file)
    codes: dict[str, Any] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            low = np.array(node.input_value(3).get_node().get_data())
            codes[node.get_friendly_name()] = [len(model.outputs) + len(codes), float(low.flat[0]) / ledger.LOW]
    assert codes, f"{file} has no quantizers"
    quantizers = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    model.add_results([opset13.result(quantizers[place].output(0)) for place in codes])
    ov.save_model(model, folder / "probed.xml", compress_to_fp16=False)
    write_json(folder / LIST, {"tasks": tasks, "codes": codes})
    return folder
