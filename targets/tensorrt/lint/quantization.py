"""The lint's rules about QuantizeLinear and DequantizeLinear. A rule yields (where, what) for a Graph and version."""

from typing import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from edgemtl.targets.tensorrt.graph import WEIGHTED, Graph, attribute, readable_name
from edgemtl.targets.tensorrt.lint.rule import Finding, Rule, Version, nodes

GUIDE = "NVIDIA TensorRT, Working with Quantized Types"
BOTH = QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def _zero_point(graph: Graph, node: NodeProto) -> np.ndarray | None:
    return graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None


def _quantized(graph: Graph, tensor: str, *through: str) -> NodeProto | None:
    """The DequantizeLinear that gives a tensor, behind nodes of the kinds `through`."""
    _, maker = graph.before(tensor, *through)
    return maker if maker is not None and maker.op_type == DEQUANTIZE else None


def _source(graph: Graph, node: NodeProto) -> str:
    """The tensor that was quantized: what goes into Q, or into DQ where the codes are stored."""
    name, _ = graph.before(node.input[0], QUANTIZE)
    return name


def impossible_scale(graph: Graph, node: NodeProto) -> str | None:
    scale = graph.constant(node.input[1])
    wrong = np.empty(0) if scale is None else scale[~((scale > 0) & np.isfinite(scale))].reshape(-1)
    return f"scale {float(wrong[0]):g}; it must be positive and finite" if wrong.size else None


def shifted(graph: Graph, node: NodeProto) -> str | None:
    zero = _zero_point(graph, node)
    wrong = [] if zero is None else [int(number) for number in zero.astype(np.int64).reshape(-1) if number]
    return f"zero point {wrong[0]}; only 0 is supported" if wrong else None


def computes_zero_point(graph: Graph, node: NodeProto) -> bool:
    return len(node.input) > 2 and bool(node.input[2]) and _zero_point(graph, node) is None


def unequal_sizes(graph: Graph, node: NodeProto) -> str | None:
    scale, zero = graph.constant(node.input[1]), _zero_point(graph, node)
    if scale is None or zero is None or scale.size == zero.size:
        return None
    return f"{scale.size} scales and {zero.size} zero points"


def unsigned(graph: Graph, node: NodeProto) -> str | None:
    zero = _zero_point(graph, node)
    if zero is not None and zero.dtype == np.uint8 and not zero.any():
        return "uint8 becomes int8 with the same scale: everything over 127 steps is clipped"
    if zero is None and len(node.input) < 3 and attribute(node, "output_dtype", 0) in (0, TensorProto.UINT8):
        return "no zero point means uint8, which becomes int8: over 127 steps is clipped"
    return None


def apart(graph: Graph, node: NodeProto) -> str | None:
    others = [reader for reader in graph.readers[node.output[0]] if reader.op_type != DEQUANTIZE]
    return f"{others[0].op_type} stands between QuantizeLinear and DequantizeLinear" if others else None


def per_channel_activation(graph: Graph, node: NodeProto) -> str | None:
    scale = graph.constant(node.input[1])
    if scale is None or scale.size == 1 or graph.constant(node.input[0]) is not None:
        return None
    return f"an activation with {scale.size} scales; one is supported, several are for weights"


def wrong_axis(graph: Graph, layer: NodeProto) -> str | None:
    path, name = [], layer.input[1]
    while (maker := graph.maker.get(name)) is not None and maker.op_type == "Transpose":
        path.append(attribute(maker, "perm"))
        name = maker.input[0]
    quantizer = _quantized(graph, name)
    if quantizer is None or graph.constant(_source(graph, quantizer)) is None:
        return None
    scale, shape = graph.constant(quantizer.input[1]), graph.shape(quantizer.output[0])
    if scale is None or scale.size == 1 or not shape:
        return None
    axis = attribute(quantizer, "axis", 1) % len(shape)
    for perm in reversed(path):
        axis = list(perm or reversed(range(len(shape)))).index(axis)
    gemm = 0 if attribute(layer, "transB", 0) else 1
    channels = {"Conv": 0, "ConvTranspose": 1, "Gemm": gemm, "MatMul": len(shape) - 1}[layer.op_type]
    return f"weight scales along axis {axis}, output channels along {channels}" if axis != channels else None


def half_quantized(graph: Graph, node: NodeProto) -> str | None:
    data, weight = (_quantized(graph, tensor, "Transpose", "Reshape") for tensor in node.input[:2])
    which = "weight" if data is None else "data"
    text = f"only its {which} is quantized, so {node.op_type} computes in float"
    return text if (data is None) != (weight is None) else None


def cast_between(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of(*WEIGHTED):
        for tensor in node.input[:2]:
            if _quantized(graph, tensor) is None and _quantized(graph, tensor, "Cast") is not None:
                yield readable_name(node), "a Cast stands between DequantizeLinear and the layer, so they are not fused"


def _int8_layer(graph: Graph, tensor: str) -> bool:
    _, maker = graph.before(tensor)
    return maker is not None and maker.op_type in WEIGHTED and _quantized(graph, maker.input[0]) is not None


def _sums(graph: Graph) -> Iterator[tuple[NodeProto, str, str]]:
    """Additions of two computed tensors, in both orders."""
    for node in graph.of("Add"):
        first, second = node.input
        if graph.constant(first) is None and graph.constant(second) is None:
            yield node, first, second
            yield node, second, first


def float_skip(graph: Graph, version: Version) -> Iterator[Finding]:
    for node, branch, skip in _sums(graph):
        if _int8_layer(graph, branch) and _quantized(graph, skip) is None and not _int8_layer(graph, skip):
            yield readable_name(node), "the skip connection is not quantized, so the sum is not fused into the layer"


def quantized_branch(graph: Graph, version: Version) -> Iterator[Finding]:
    for node, branch, skip in _sums(graph):
        quantizer = _quantized(graph, branch)
        if quantizer is not None and _quantized(graph, skip) and _int8_layer(graph, _source(graph, quantizer)):
            yield readable_name(node), "Q/DQ between the layer and the sum keeps them from being fused"


def needless(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of(DEQUANTIZE):
        if node.output[0] in graph.outputs:
            yield readable_name(node), "Q/DQ on an output"
        for reader in graph.readers[node.output[0]]:
            if reader.op_type in ("GridSample", "LayerNormalization", "Softmax") and reader.input[0] == node.output[0]:
                yield readable_name(node), f"Q/DQ before {reader.op_type}, which computes in float"


def unequal_scales(graph: Graph, node: NodeProto) -> str | None:
    quantizers = [_quantized(graph, tensor) for tensor in node.input]
    scales = [graph.constant(maker.input[1]) for maker in quantizers if maker is not None]
    values = {float(scale) for scale in scales if scale is not None and scale.size == 1}
    differ = len(scales) == len(node.input) and len(values) > 1
    return f"its inputs have {len(values)} different scales, so it computes in float" if differ else None


RULES = (
    Rule("Q1", "W", nodes(BOTH, "the scale is computed, not a constant", lambda g, n: g.constant(n.input[1]) is None),
         GUIDE),
    Rule("Q2", "E", nodes(BOTH, impossible_scale), GUIDE),
    Rule("Q3", "E", nodes(BOTH, shifted), "NVIDIA/TensorRT#4698"),
    Rule("Q3", "W", nodes(BOTH, "the zero point is computed, not a constant", computes_zero_point), GUIDE, until=(11,)),
    Rule("Q3", "E", nodes(BOTH, "the zero point is computed, not a constant", computes_zero_point),
         "NVIDIA TensorRT 11, IQuantizeLayer", since=(11,)),
    Rule("Q4", "E", nodes(BOTH, unequal_sizes), "ONNX DequantizeLinear"),
    Rule("Q5", "S", nodes(QUANTIZE, unsigned), "onnx-tensorrt, warning of its Q/DQ importer", until=(10,)),
    Rule("Q5", "E", nodes(QUANTIZE, unsigned), "onnx-tensorrt 10.1 onnxOpImporters.cpp", since=(10,), until=(10, 2)),
    Rule("Q5", "S", nodes(QUANTIZE, unsigned), "onnx-tensorrt, warning of its Q/DQ importer", since=(10, 2)),
    Rule("Q6", "E", nodes(DEQUANTIZE, "stored codes are uint8; only int8 is supported",
         lambda g, n: n.input[0] not in g.maker and g.type(n.input[0]) == TensorProto.UINT8),
         "onnx-tensorrt onnxOpImporters.cpp"),
    Rule("Q7", "E", nodes(DEQUANTIZE, "int32 codes; a bias must be stored as float",
         lambda g, n: g.type(n.input[0]) == TensorProto.INT32), "onnxruntime#14229, onnx-tensorrt#850"),
    Rule("Q8", "P", nodes(QUANTIZE, apart), GUIDE),
    Rule("Q9", "P", nodes(QUANTIZE, per_channel_activation), GUIDE),
    Rule("Q10", "P", nodes(WEIGHTED, wrong_axis), GUIDE),
    Rule("Q11", "P", nodes("LayerNormalization", "its scale or bias is quantized, which only adds work",
         lambda g, n: any(_quantized(g, tensor) for tensor in n.input[1:])), GUIDE),
    Rule("P1", "P", nodes(WEIGHTED, half_quantized), GUIDE),
    Rule("P2", "P", float_skip, GUIDE),
    Rule("P3", "P", quantized_branch, GUIDE),
    Rule("P4", "P", needless, GUIDE),
    Rule("P5", "P", nodes("Concat", unequal_scales), GUIDE),
    Rule("P6", "P", cast_between, GUIDE),
)  # fmt: skip
