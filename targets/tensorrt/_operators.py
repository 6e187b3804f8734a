"""The lint's rules about operators, types and limits. A rule yields (where, what) for a Graph and a version."""

from __future__ import annotations

from typing import Iterator

import numpy as np
from onnx import TensorProto

from edgemtl.targets.tensorrt._graph import Graph, attribute, readable_name
from edgemtl.targets.tensorrt._rule import Finding, Rule, Version

OPERATORS_DOC = "onnx-tensorrt docs/operators.md"
TYPES_DOC = "NVIDIA TensorRT Python API, DataType"
LARGEST_FLOAT16 = 65504.0  # of float16
DATA_DEPENDENT = ("NonMaxSuppression", "NonZero", "RoiAlign", "ScatterElements")


def name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower()


def newest_opset(version: Version) -> int:
    """The newest opset that TensorRT of this version imports."""
    return 17 if version < (10,) else 20 if version < (11,) else 25


def opset_too_new(graph: Graph, version: Version) -> Iterator[Finding]:
    if graph.opset > newest_opset(version):
        yield "the model", f"opset {graph.opset}, and {newest_opset(version)} is the newest it imports"


def opset_too_old(graph: Graph, version: Version) -> Iterator[Finding]:
    if graph.opset < 9:
        yield "the model", f"opset {graph.opset}; importers are tested from 9 on"


def foreign_domain(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield readable_name(node), f"{node.op_type} of the domain {node.domain} needs a plugin of that name"


def _ends(graph: Graph) -> list[str]:
    return [*sorted(graph.inputs), *graph.outputs]


def foreign_type(graph: Graph, version: Version) -> Iterator[Finding]:
    known = (
        TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8,
        TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL, TensorProto.UNDEFINED,
        *((TensorProto.FLOAT8E4M3FN, TensorProto.INT4) if version >= (10,) else ()),
    )  # fmt: skip
    for end in _ends(graph):
        if graph.type(end) not in known:
            yield end, f"{name(graph.type(end))} is no type of an input or output"


def double(graph: Graph, version: Version) -> Iterator[Finding]:
    for end in _ends(graph):
        if graph.type(end) == TensorProto.DOUBLE:
            yield end, "double is computed in float32"


def fourier(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("DFT"):
        yield readable_name(node), "DFT is not imported"


def deformable(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("DeformConv"):
        yield readable_name(node), "DeformConv has no importer; sample with GridSample instead"


def deformable_plugin(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("DeformConv"):
        yield readable_name(node), "DeformConv is a plugin here, in float and with equal pads only"


def data_dependent(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of(*DATA_DEPENDENT):
        yield readable_name(node), f"{node.op_type} is a plugin or limited"


def control_flow(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("If", "Loop", "Scan"):
        yield readable_name(node), f"the lint does not look into {node.op_type}"


def uint8_input(graph: Graph, version: Version) -> Iterator[Finding]:
    for end in sorted(graph.inputs):
        for node in graph.readers[end] if graph.type(end) == TensorProto.UINT8 else ():
            if node.op_type != "Cast":
                yield readable_name(node), f"{node.op_type} reads uint8 from {end}; Cast must be the first to"


def uint8_output(graph: Graph, version: Version) -> Iterator[Finding]:
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    for end in graph.outputs:
        maker = graph.maker.get(end)
        cast = maker is not None and maker.op_type == "Cast" and graph.type(maker.input[0]) in floats
        if graph.type(end) == TensorProto.UINT8 and not cast:
            yield end, "a uint8 output must be cast from float"


def volume(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("GridSample"):
        if len(graph.shape(node.input[0]) or ()) == 5:
            yield readable_name(node), "GridSample of 5 dimensions"


def half_grid(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("GridSample"):
        if graph.type(node.input[1]) == TensorProto.FLOAT16:
            width = (graph.shape(node.input[0]) or [None])[-1]
            lost = f": off by up to {width / 2**13:.2g} pixels near the edge" if width else ""
            yield readable_name(node), f"sampling positions in float16{lost}"


def mixed_grid(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("GridSample"):
        a, b = (graph.type(tensor) for tensor in node.input[:2])
        if a != b and TensorProto.UNDEFINED not in (a, b):
            yield readable_name(node), f"GridSample of {name(a)} at {name(b)} positions; both must be of one type"


def renamed_modes(graph: Graph, version: Version) -> Iterator[Finding]:
    if graph.opset >= 20:
        for node in graph.of("GridSample"):
            yield (
                readable_name(node),
                f"GridSample at opset {graph.opset} was seen to compute wrong values; use opset 19",
            )


def float_grid_in_half(graph: Graph, version: Version) -> Iterator[Finding]:
    if any(graph.type(constant) == TensorProto.FLOAT16 for constant in graph.constants()):
        for node in graph.of("GridSample"):
            if graph.type(node.input[1]) == TensorProto.FLOAT:
                yield (
                    readable_name(node),
                    "GridSample kept float32 in a float16 graph was reported wrong: compare the maps",
                )


def antialias(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("Resize"):
        if attribute(node, "antialias", 0):
            yield readable_name(node), "Resize with antialias"


def cubic(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("Resize"):
        if attribute(node, "mode", "nearest") == "cubic":
            yield readable_name(node), "cubic Resize"


def many(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("TopK"):
        before_opset_10 = np.array(attribute(node, "k")) if attribute(node, "k") is not None else None
        count = graph.constant(node.input[1]) if len(node.input) > 1 else before_opset_10
        if count is not None and int(count.reshape(-1)[0]) >= 3840:
            yield readable_name(node), f"TopK with K = {int(count.reshape(-1)[0])}; below 3840 works"


def scatter_reduction(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("ScatterND"):
        if attribute(node, "reduction", "none") != "none":
            yield readable_name(node), f"ScatterND with reduction {attribute(node, 'reduction')}"


def layer_norm(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("LayerNormalization"):
        yield readable_name(node), "LayerNormalization has no importer"


def taken_apart(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("ReduceMean"):
        _, maker = graph.before(node.input[0])
        square = maker is not None and (
            maker.op_type == "Pow" or (maker.op_type == "Mul" and maker.input[0] == maker.input[1])
        )
        if square and graph.type(node.input[0]) == TensorProto.FLOAT16:
            yield readable_name(node), "a mean of squares in float16 overflows; use LayerNormalization or float32"


def norm_types(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("LayerNormalization"):
        kinds = {graph.type(tensor) for tensor in node.input if tensor} - {TensorProto.UNDEFINED}
        if len(kinds) > 1:
            yield (
                readable_name(node),
                f"input, scale and bias are {', '.join(sorted(map(name, kinds)))}; they must be alike",
            )


def norm_outputs(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("LayerNormalization"):
        if any(node.output[1:]):
            yield readable_name(node), "only the first output of LayerNormalization exists, and no other may be named"


def attention(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("Attention"):
        yield readable_name(node), "Attention has no importer; write it as MatMul and Softmax"


def fused_attention(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of("Attention"):
        yield readable_name(node), "Attention builds only where a fused kernel fits; write it as MatMul and Softmax"


def infinite(graph: Graph, version: Version) -> Iterator[Finding]:
    for constant in graph.constants():
        if graph.type(constant) == TensorProto.FLOAT16 and not np.isfinite(graph.constant(constant)).all():
            yield constant, "a float16 constant that is not finite"


def beyond_half(graph: Graph, version: Version) -> Iterator[Finding]:
    for constant in graph.constants():
        if graph.type(constant) == TensorProto.FLOAT:
            value = np.abs(graph.constant(constant))
            if value.size and value.max() > LARGEST_FLOAT16:
                yield constant, f"{value.max():g} becomes infinity in float16; a mask of -6e4 does the same"


def dynamic(graph: Graph, version: Version) -> Iterator[Finding]:
    for end in sorted(graph.inputs):
        shape = graph.shape(end)
        if shape is None or None in shape:
            yield end, "a dynamic axis needs an optimization profile, and no engine for it runs on DLA"


def long_ends(graph: Graph, version: Version) -> Iterator[Finding]:
    for end in _ends(graph):
        if graph.type(end) == TensorProto.INT64:
            yield end, "int64 is bound as int32 before TensorRT 10 and as int64 from then on"


def taken_name(graph: Graph, version: Version) -> Iterator[Finding]:
    held = set(graph.constants())
    for node in graph.of("DequantizeLinear", "QuantizeLinear"):  # Add and Conv were seen to be renamed
        if node.name in held:
            yield readable_name(node), "an initializer has the same name, and as layers they must have different ones"


RULES = (
    Rule("M1", "E", "opset newer than the importer", f"{OPERATORS_DOC}, of each release's branch", opset_too_new),
    Rule("M1", "W", "opset older than 9", "NVIDIA ONNX Opset Guide", opset_too_old),
    Rule("M2", "E", "operator of a foreign domain", "NVIDIA/TensorRT, plugins in the ONNX parser", foreign_domain),
    Rule("M3", "E", "type of an input or output", TYPES_DOC, foreign_type),
    Rule("M3", "S", "double precision", f"{OPERATORS_DOC}, double is cast to float", double),
    Rule("M4", "E", "operator without an importer", OPERATORS_DOC, fourier, until=(11, 2)),
    Rule("M5", "E", "DeformConv", OPERATORS_DOC, deformable, until=(10, 1)),
    Rule("M5", "W", "DeformConv", "NVIDIA TensorRT 10.1 release notes", deformable_plugin, since=(10, 1)),
    Rule("M5", "W", "plugin or limited operator", OPERATORS_DOC, data_dependent),
    Rule("M6", "W", "control flow", OPERATORS_DOC, control_flow),
    Rule("N1", "E", "Q or DQ called as an initializer", "NVIDIA TensorRT, ILayer::setName", taken_name),
    Rule("U1", "E", "uint8 input not cast first", TYPES_DOC, uint8_input),
    Rule("U2", "E", "uint8 output not cast from float", TYPES_DOC, uint8_output, until=(10,)),
    Rule("G1", "E", "GridSample of a volume", "NVIDIA TensorRT 11.2 release notes", volume, until=(11, 2)),
    Rule("G2", "S", "float16 sampling positions", "pytorch/pytorch#96429", half_grid),
    Rule("G3", "E", "GridSample of two types", "NVIDIA TensorRT, IGridSampleLayer", mixed_grid),
    Rule("G4", "S", "GridSample of opset 20", "NVIDIA/TensorRT#4646", renamed_modes, since=(10,), until=(11,)),
    Rule("G4", "W", "GridSample of opset 20", "NVIDIA/TensorRT#4646", renamed_modes, since=(11,)),
    Rule("G5", "W", "float32 GridSample, float16 graph", "pytorch/TensorRT#4074", float_grid_in_half, since=(10, 14)),
    Rule("R1", "E", "Resize with antialias", OPERATORS_DOC, antialias),
    Rule("R2", "E", "cubic Resize", f"{OPERATORS_DOC}, branch 8.5", cubic, until=(8, 6)),
    Rule("K1", "E", "TopK of many", OPERATORS_DOC, many),
    Rule("K2", "E", "ScatterND with a reduction", OPERATORS_DOC, scatter_reduction),
    Rule("L1", "E", "LayerNormalization", f"{OPERATORS_DOC}, branch 8.5", layer_norm, until=(8, 6)),
    Rule("L2", "S", "LayerNorm taken apart, float16", "NVIDIA/TensorRT#2781, #3692", taken_apart),
    Rule("L3", "E", "LayerNormalization of two types", "NVIDIA TensorRT, INormalizationLayer", norm_types),
    Rule("L4", "E", "LayerNormalization's other outputs", OPERATORS_DOC, norm_outputs),
    Rule("A1", "E", "Attention", "NVIDIA TensorRT 10.14 release notes", attention, until=(10, 14)),
    Rule("A1", "W", "Attention", "NVIDIA TensorRT 10.14 release notes", fused_attention, since=(10, 14)),
    Rule("F1", "S", "infinite float16 constant", "NVIDIA/TensorRT#2564", infinite),
    Rule("F2", "W", "constant beyond float16", "NVIDIA/TensorRT#2564", beyond_half),
    Rule("D1", "W", "dynamic input", "NVIDIA TensorRT, Working with Dynamic Shapes", dynamic),
    Rule("I1", "W", "int64 input or output", "NVIDIA TensorRT 10.0 migration guide", long_ends),
)
