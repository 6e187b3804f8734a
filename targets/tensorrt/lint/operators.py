"""The lint's rules about operators, types and limits. A rule yields (where, what) for a Graph and a version."""

from typing import Callable, Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from edgemtl.targets.tensorrt.graph import Graph, attribute, readable_name
from edgemtl.targets.tensorrt.lint.rule import Finding, Rule, Version, nodes, tensors

OPERATORS_DOC = "onnx-tensorrt docs/operators.md"
TYPES_DOC = "NVIDIA TensorRT Python API, DataType"
LARGEST_FLOAT16 = 65504.0  # of float16
FIRST_OUTPUT = "only the first output of {kind} exists, and no other may be named"
DATA_DEPENDENT = ("NonMaxSuppression", "NonZero", "RoiAlign", "ScatterElements")


def name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower()


def reduces(graph: Graph, node: NodeProto) -> bool:
    return bool(attribute(node, "reduction", "none") != "none")


def names_others(graph: Graph, node: NodeProto) -> bool:
    return any(node.output[1:])


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


def ends_of(kind: int, text: str) -> Callable[[Graph, Version], Iterator[Finding]]:
    """Finds the inputs and outputs of a type."""
    return tensors(_ends, lambda graph, end: text if graph.type(end) == kind else None)


def uint8_input(graph: Graph, version: Version) -> Iterator[Finding]:
    for end in sorted(graph.inputs):
        for node in graph.readers[end] if graph.type(end) == TensorProto.UINT8 else ():
            if node.op_type != "Cast":
                yield readable_name(node), f"{node.op_type} reads uint8 from {end}; Cast must be the first to"


def uint8_output(graph: Graph, end: str) -> str | None:
    maker = graph.maker.get(end)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    cast = maker is not None and maker.op_type == "Cast" and graph.type(maker.input[0]) in floats
    return "a uint8 output must be cast from float" if graph.type(end) == TensorProto.UINT8 and not cast else None


def half_grid(graph: Graph, node: NodeProto) -> str | None:
    if graph.type(node.input[1]) != TensorProto.FLOAT16:
        return None
    width = (graph.shape(node.input[0]) or [None])[-1]
    return "sampling positions in float16" + (f": off by up to {width / 2**13:.2g} pixels near the edge" * bool(width))


def mixed_grid(graph: Graph, node: NodeProto) -> str | None:
    a, b = (graph.type(tensor) for tensor in node.input[:2])
    if a == b or TensorProto.UNDEFINED in (a, b):
        return None
    return f"GridSample of {name(a)} at {name(b)} positions; both must be of one type"


def renamed_modes(graph: Graph, node: NodeProto) -> str | None:
    text = f"GridSample at opset {graph.opset} was seen to compute wrong values; use opset 19"
    return text if graph.opset >= 20 else None


def float_grid_in_half(graph: Graph, node: NodeProto) -> bool:
    halves = any(graph.type(constant) == TensorProto.FLOAT16 for constant in graph.constants())
    return halves and graph.type(node.input[1]) == TensorProto.FLOAT


def many(graph: Graph, node: NodeProto) -> str | None:
    before_opset_10 = np.array(attribute(node, "k")) if attribute(node, "k") is not None else None
    count = graph.constant(node.input[1]) if len(node.input) > 1 else before_opset_10
    most = 0 if count is None else int(count.reshape(-1)[0])
    return f"TopK with K = {most}; below 3840 works" if most >= 3840 else None


def taken_apart(graph: Graph, node: NodeProto) -> bool:
    _, maker = graph.before(node.input[0])
    square = maker is not None and (
        maker.op_type == "Pow" or (maker.op_type == "Mul" and maker.input[0] == maker.input[1])
    )
    return square and graph.type(node.input[0]) == TensorProto.FLOAT16


def norm_types(graph: Graph, node: NodeProto) -> str | None:
    kinds = {graph.type(tensor) for tensor in node.input if tensor} - {TensorProto.UNDEFINED}
    listed = ", ".join(sorted(map(name, kinds)))
    return f"input, scale and bias are {listed}; they must be alike" if len(kinds) > 1 else None


def infinite(graph: Graph, constant: str) -> str | None:
    if graph.type(constant) == TensorProto.FLOAT16 and not np.isfinite(graph.constant(constant)).all():
        return "a float16 constant that is not finite"
    return None


def beyond_half(graph: Graph, constant: str) -> str | None:
    value = np.abs(graph.constant(constant)).max(initial=0) if graph.type(constant) == TensorProto.FLOAT else 0
    return f"{value:g} becomes infinity in float16; a mask of -6e4 does the same" if value > LARGEST_FLOAT16 else None


def dynamic(graph: Graph, end: str) -> str | None:
    shape = graph.shape(end)
    fixed = shape is not None and None not in shape
    return None if fixed else "a dynamic axis needs an optimization profile, and no engine for it runs on DLA"


RULES = (
    Rule("M1", "E", opset_too_new, f"{OPERATORS_DOC}, of each release's branch"),
    Rule("M1", "W", opset_too_old, "NVIDIA ONNX Opset Guide"),
    Rule("M2", "E", foreign_domain, "NVIDIA/TensorRT, plugins in the ONNX parser"),
    Rule("M3", "E", foreign_type, TYPES_DOC),
    Rule("M3", "S", ends_of(TensorProto.DOUBLE, "double is computed in float32"),
         f"{OPERATORS_DOC}, double is cast to float"),
    Rule("M4", "E", nodes("DFT", "DFT is not imported"), OPERATORS_DOC, until=(11, 2)),
    Rule("M5", "E", nodes("DeformConv", "DeformConv has no importer; sample with GridSample instead"),
         OPERATORS_DOC, until=(10, 1)),
    Rule("M5", "W", nodes("DeformConv", "DeformConv is a plugin here, in float and with equal pads only"),
         "NVIDIA TensorRT 10.1 release notes", since=(10, 1)),
    Rule("M5", "W", nodes(DATA_DEPENDENT, "{kind} is a plugin or limited"), OPERATORS_DOC),
    Rule("M6", "W", nodes(("If", "Loop", "Scan"), "the lint does not look into {kind}"), OPERATORS_DOC),
    Rule("N1", "E", nodes(("DequantizeLinear", "QuantizeLinear"),  # Add and Conv were seen to be renamed
         "an initializer has the same name, and as layers they must have different ones",
         lambda g, n: n.name in g.constants()), "NVIDIA TensorRT, ILayer::setName"),
    Rule("U1", "E", uint8_input, TYPES_DOC),
    Rule("U2", "E", tensors(lambda g: g.outputs, uint8_output), TYPES_DOC, until=(10,)),
    Rule("G1", "E", nodes("GridSample", "GridSample of 5 dimensions", lambda g, n: len(g.shape(n.input[0]) or ()) == 5),
         "NVIDIA TensorRT 11.2 release notes", until=(11, 2)),
    Rule("G2", "S", nodes("GridSample", half_grid), "pytorch/pytorch#96429"),
    Rule("G3", "E", nodes("GridSample", mixed_grid), "NVIDIA TensorRT, IGridSampleLayer"),
    Rule("G4", "S", nodes("GridSample", renamed_modes), "NVIDIA/TensorRT#4646", since=(10,), until=(11,)),
    Rule("G4", "W", nodes("GridSample", renamed_modes), "NVIDIA/TensorRT#4646", since=(11,)),
    Rule("G5", "W", nodes("GridSample",
         "GridSample kept float32 in a float16 graph was reported wrong: compare the maps", float_grid_in_half),
         "pytorch/TensorRT#4074", since=(10, 14)),
    Rule("R1", "E", nodes("Resize", "Resize with antialias", lambda _, n: attribute(n, "antialias", 0)), OPERATORS_DOC),
    Rule("R2", "E", nodes("Resize", "cubic Resize", lambda _, n: attribute(n, "mode", "nearest") == "cubic"),
         f"{OPERATORS_DOC}, branch 8.5", until=(8, 6)),
    Rule("K1", "E", nodes("TopK", many), OPERATORS_DOC),
    Rule("K2", "E", nodes("ScatterND", "ScatterND with reduction {reduction}", reduces), OPERATORS_DOC),
    Rule("L1", "E", nodes("LayerNormalization", "LayerNormalization has no importer"),
         f"{OPERATORS_DOC}, branch 8.5", until=(8, 6)),
    Rule("L2", "S", nodes("ReduceMean",
         "a mean of squares in float16 overflows; use LayerNormalization or float32", taken_apart),
         "NVIDIA/TensorRT#2781, #3692"),
    Rule("L3", "E", nodes("LayerNormalization", norm_types), "NVIDIA TensorRT, INormalizationLayer"),
    Rule("L4", "E", nodes("LayerNormalization", FIRST_OUTPUT, names_others), OPERATORS_DOC),
    Rule("A1", "E", nodes("Attention", "Attention has no importer; write it as MatMul and Softmax"),
         "NVIDIA TensorRT 10.14 release notes", until=(10, 14)),
    Rule("A1", "W", nodes("Attention",
         "Attention builds only where a fused kernel fits; write it as MatMul and Softmax"),
         "NVIDIA TensorRT 10.14 release notes", since=(10, 14)),
    Rule("F1", "S", tensors(Graph.constants, infinite), "NVIDIA/TensorRT#2564"),
    Rule("F2", "W", tensors(Graph.constants, beyond_half), "NVIDIA/TensorRT#2564"),
    Rule("D1", "W", tensors(lambda g: sorted(g.inputs), dynamic), "NVIDIA TensorRT, Working with Dynamic Shapes"),
    Rule("I1", "W", ends_of(TensorProto.INT64, "int64 is bound as int32 before TensorRT 10 and as int64 from then on"),
         "NVIDIA TensorRT 10.0 migration guide"),
)  # fmt: skip
