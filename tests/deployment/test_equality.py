"""Equal codes: whoever changes anything between two quantizers is noticed, and where."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgemtl.deployment import equality
from edgemtl.ground import registry
from edgemtl.networks.session import TorchSession
from edgemtl.quantization import proof
from edgemtl.records.artifact import Manifest
from edgemtl.records.target import Original
from tests import toy

pytestmark = pytest.mark.slow

SIZE = (64, 96)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The exact nyud_edge as an ONNX artifact, with its network, its proof and a frame."""
    pytest.importorskip("onnxruntime")
    network, target = toy.exact_edge(), registry.load("targets", "onnx").target
    folder = tmp_path_factory.mktemp("onnx")
    tasks = dict.fromkeys(("semseg", "depth", "normals", "edge"))
    target.convert(Original(network, SIZE, tasks, "int8", {}), folder)
    manifest = Manifest.model_construct(tasks=tasks, precision="int8", size=SIZE, target="onnx")
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    return target, folder, manifest, TorchSession(network), proof.prove(network, torch.zeros(1, 3, *SIZE)), frame


def compared(made, folder):
    target, _, manifest, network, shown, frame = made
    return equality.code_differences(target, folder, manifest, [frame], network, shown, None)


def test_every_code_is_torchs(made):
    found = compared(made, made[1])
    assert found["ok"] and found["differing"] == {} and found["certain"] == found["quantizers"] > 100


def change_bias(graph):
    for value in graph.initializer:
        if value.name.endswith("conv_stem.bias"):
            array = numpy_helper.to_array(value).copy()
            array[3] += 0.25
            value.CopyFrom(numpy_helper.from_array(array, value.name))
            return
    raise AssertionError("no bias of the stem")


def change_resize(graph):
    node = [node for node in graph.node if node.op_type == "Resize"][0]
    for attribute in node.attribute:
        if attribute.name == "coordinate_transformation_mode":
            attribute.s = b"asymmetric"


def change_grey(graph):
    for value in graph.initializer:
        array = numpy_helper.to_array(value)
        if array.dtype == np.float32 and array.size == 1 and abs(float(array.ravel()[0])) == 128:
            value.CopyFrom(numpy_helper.from_array(array * np.float32(126 / 128), value.name))
            return
    for node in graph.node:
        if node.op_type == "Constant" and numpy_helper.to_array(node.attribute[0].t).size == 1:
            array = numpy_helper.to_array(node.attribute[0].t)
            if abs(float(array.ravel()[0])) == 128:
                node.attribute[0].t.CopyFrom(numpy_helper.from_array(array * array.dtype.type(126 / 128)))
                return
    raise AssertionError("no grey level")


def read_the_float(graph):
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[0] in makers and makers[node.input[0]].op_type == "DequantizeLinear":
            quantize = makers[makers[node.input[0]].input[0]]
            quantize = makers[quantize.input[0]] if quantize.op_type == "Clip" else quantize  # of codes
            if "hardtanh" in quantize.name:
                node.input[0] = quantize.input[0]
                return
    raise AssertionError("no layer behind codes")


@pytest.mark.parametrize("change", [change_bias, change_resize, change_grey, read_the_float])
def test_a_change_between_quantizers_is_noticed(made, tmp_path, change):
    model = onnx.load(made[1] / "model.onnx")
    change(model.graph)
    onnx.save(model, tmp_path / "model.onnx")
    found = compared(made, tmp_path)
    assert not found["ok"] and found["wrong"] and max(found["differing"].values()) > 0


def test_one_hash_for_all_maps():
    maps = [{"depth": np.ones((2, 2), np.float32), "semseg": np.zeros((2, 2), np.int64)}]
    same = [{"semseg": np.zeros((2, 2), np.int32), "depth": np.ones((2, 2), np.float64)}]
    assert equality.hash_maps(maps) == equality.hash_maps(same)
    same[0]["depth"][0, 0] = np.nextafter(np.float32(1), np.float32(2))
    assert equality.hash_maps(maps) != equality.hash_maps(same)
