"""The lint's rules from onnx-tensorrt's list of operators: which it imports, since which release, within what limits.

The sources are the list in the branches 8.5, 8.6 and 10.1, and its change log up to 10.6. Which newer operators the
importer of TensorRT 11 takes, and limits that the list leaves out, come from TensorRT-RTX, which has that parser: it
ran on the small models that ONNX has for each operator.
"""

from typing import Iterator

from onnx import NodeProto, TensorProto

from edgemtl.targets.tensorrt.graph import NO_NUMBERS, Graph, attribute, readable_name
from edgemtl.targets.tensorrt.lint.operators import FIRST_OUTPUT, names_others, reduces
from edgemtl.targets.tensorrt.lint.rule import Finding, Rule, Version, nodes

LIST = "onnx-tensorrt docs/operators.md"
CHANGES = "onnx-tensorrt docs/Changelog.md"
SEEN = "TensorRT-RTX 1.7.1, its parser"

# Imported by all releases that the lint knows.
IMPORTED = {
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "AveragePool",
    "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
    "ConvTranspose", "Cos", "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu",
    "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "GRU", "Gather", "GatherElements", "GatherND",
    "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample",
    "HardSigmoid", "HardSwish", "Identity", "If", "ImageScaler", "InstanceNormalization", "IsNaN", "LRN", "LSTM",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Loop", "LpNormalization", "LpPool", "MatMul", "Max",
    "MaxPool", "Mean", "MeanVarianceNormalization", "Min", "Mod", "Mul", "Neg", "NonMaxSuppression", "NonZero",
    "Not", "OneHot", "Or", "PRelu", "Pad", "ParametricSoftplus", "Pow", "QuantizeLinear", "RNN", "RandomNormal",
    "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "Reciprocal", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence", "RoiAlign", "Round", "ScaledTanh", "Scan",
    "Scatter", "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size",
    "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan",
    "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where", "Xor",
}  # fmt: skip
OWN_RULES = {"Attention", "DeformConv", "DFT", "LayerNormalization"}  # see operators.py
# The first release that imports an operator, of those that came later.
SINCE: dict[str, Version] = {
    "GroupNormalization": (8, 6), "IsInf": (8, 6), "CastLike": (10,), "Gelu": (10,), "Hardmax": (10,), "Mish": (10,),
    "BlackmanWindow": (10, 4), "HammingWindow": (10, 4), "HannWindow": (10, 4), "STFT": (10, 5),
    "RMSNormalization": (11,), "RotaryEmbedding": (11,), "Swish": (11,), "TensorScatter": (11,),
}  # fmt: skip
# Which input must be known when the engine is built; until a release, or in all.
REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
NEVER: Version = (1000,)
CONSTANT: dict[str, tuple[int, Version]] = {
    **dict.fromkeys(REDUCTIONS, (1, NEVER)),
    "Squeeze": (1, NEVER), "Unsqueeze": (1, NEVER), "CumSum": (1, NEVER), "OneHot": (1, NEVER), "Dropout": (2, NEVER),
    "STFT": (1, NEVER), "Slice": (3, (10, 3)), "Pad": (3, (10, 4)), "TopK": (1, (8, 6)),
}  # fmt: skip
RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
TYPES = frozenset(
    (
        TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8,
        TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL, TensorProto.FLOAT8E4M3FN,
        TensorProto.INT4, TensorProto.FLOAT4E2M1, TensorProto.UNDEFINED,
    )
)  # fmt: skip
# What may read uint8: quantizing, and moving values about.
MOVES = {
    "Cast", "CastLike", "Concat", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "QuantizeLinear",
    "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Shape", "Size", "If", "Loop", "Scan",
}  # fmt: skip


def imported(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.domain in ("", "ai.onnx") and node.op_type not in IMPORTED | OWN_RULES:
            first = SINCE.get(node.op_type)
            if first is None:
                yield readable_name(node), f"{node.op_type} is not imported"
            elif version < first:
                yield readable_name(node), f"{node.op_type} is imported from {'.'.join(map(str, first))} on"


def constants(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.of(*CONSTANT):
        index, until = CONSTANT[node.op_type]
        if version < until and len(node.input) > index and node.input[index] in graph.inputs:
            text = f"{node.input[index]} of {node.op_type} must be a constant, and is an input of the model"
            yield readable_name(node), text


def drops(graph: Graph, node: NodeProto) -> bool:
    mode = graph.constant(node.input[2]) if len(node.input) > 2 else None
    return mode is not None and bool(mode.any())


def turns_back(graph: Graph, node: NodeProto) -> bool:
    """Whether a recurrent node has other activations on its way back."""
    activations = list(attribute(node, "activations", []))
    half = len(activations) // 2
    return attribute(node, "direction", "forward") == "bidirectional" and activations[:half] != activations[half:]


def einsum(graph: Graph, node: NodeProto) -> str | None:
    equation = attribute(node, "equation", "").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    odd = "." in equation or any(len(set(term)) < len(term) for term in terms)
    return f"Einsum with an ellipsis or a diagonal: {equation}" if odd else None


def foreign_values(graph: Graph, version: Version) -> Iterator[Finding]:
    for name in graph.constants():
        if graph.type(name) not in TYPES and graph.readers[name]:
            yield name, f"{TensorProto.DataType.Name(graph.type(name)).lower()} is no type of a constant"
    for node in graph.of("Cast"):
        if attribute(node, "to") not in TYPES:
            yield readable_name(node), f"Cast to {TensorProto.DataType.Name(attribute(node, 'to')).lower()}"


def no_tensor(graph: Graph, version: Version) -> Iterator[Finding]:
    for value in (*graph.model.graph.input, *graph.model.graph.output):
        if value.type.WhichOneof("value") not in ("tensor_type", None):
            yield value.name, "a sequence or an optional value, and only tensors are imported"


def bytes_computed(graph: Graph, version: Version) -> Iterator[Finding]:
    """uint8 is a type of inputs and outputs alone."""
    for node in graph.nodes:
        for name in node.input if node.op_type not in MOVES else ():
            if name not in graph.inputs and graph.type(name) == TensorProto.UINT8:
                yield readable_name(node), f"{node.op_type} of uint8"
                break


def odd_constants(graph: Graph, version: Version) -> Iterator[Finding]:
    for node in graph.model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].type in NO_NUMBERS:
            yield readable_name(node), f"Constant given by {node.attribute[0].name}"


RULES = (
    Rule("M4", "E", imported, LIST),
    Rule("M7", "E", no_tensor, LIST),
    Rule("M8", "E", foreign_values, LIST),
    Rule("O1", "E", constants, LIST),
    Rule("O2", "E", nodes(("AveragePool", "LpPool", "MaxPool"), "{kind} with dilations {dilations}",
         lambda _, n: any(step != 1 for step in attribute(n, "dilations", []))), LIST),
    Rule("O3", "E", nodes("MaxPool", "MaxPool with its output of indices", names_others), LIST),
    Rule("O4", "E", nodes(("LpPool", "LpNormalization", "GlobalLpPool"), "{kind} with p = {p}; 1 and 2 are known",
         lambda _, n: attribute(n, "p", 2) not in (1, 2)), SEEN),
    Rule("R3", "E", nodes("Resize",
         f"Resize with the coordinates {{coordinate_transformation_mode}}; {', '.join(RESIZE_MODES)} are known",
         lambda _, n: attribute(n, "coordinate_transformation_mode", "half_pixel") not in RESIZE_MODES), LIST),
    Rule("R3", "E", nodes("Resize",
         "Resize with keep_aspect_ratio_policy {keep_aspect_ratio_policy}; stretch alone is known",
         lambda _, n: attribute(n, "keep_aspect_ratio_policy", "stretch") != "stretch"), LIST),
    Rule("O5", "E", nodes("BatchNormalization", "BatchNormalization in training mode",
         lambda _, n: attribute(n, "training_mode", 0)), LIST),
    Rule("O5", "E", nodes("Dropout", "Dropout in training mode", drops), LIST),
    Rule("O6", "E", nodes("ScatterElements", "ScatterElements with reduction {reduction}", reduces),
         f"{CHANGES}, 10.0", until=(10,)),
    Rule("O7", "E", nodes("TopK", "TopK with sorted = 0", lambda _, n: not attribute(n, "sorted", 1)),
         f"{LIST}, branch 10.1", since=(10,), until=(11,)),
    Rule("O8", "E", nodes(("GRU", "LSTM", "RNN"), "{kind} with other activations on the way back", turns_back), LIST),
    Rule("O8", "E", nodes("LSTM", "LSTM with input_forget", lambda _, n: attribute(n, "input_forget", 0)), LIST),
    Rule("O9", "E", nodes("Einsum", einsum), f"{LIST}, branches 8.5 and 8.6", until=(10,)),
    Rule("O10", "E", nodes("InstanceNormalization", "InstanceNormalization whose scale and bias are no constants",
         lambda g, n: any(g.constant(name) is None for name in n.input[1:])), f"{LIST}, branch 8.5", until=(8, 6)),
    Rule("A2", "E", nodes("Attention", FIRST_OUTPUT, names_others), SEEN, since=(10, 14)),
    Rule("A2", "E", nodes("Attention", "Attention with softcap or softmax_precision",
         lambda _, n: attribute(n, "softcap", 0.0) or attribute(n, "softmax_precision") is not None),
         SEEN, since=(10, 14)),
    Rule("O11", "E", nodes("Range", "Range of float16; float32 and integers are known",
         lambda g, n: g.type(n.output[0]) in (TensorProto.FLOAT16, TensorProto.BFLOAT16)), SEEN),
    Rule("O12", "E", nodes(REDUCTIONS, "{kind} of bool", lambda g, n: g.type(n.input[0]) == TensorProto.BOOL), LIST),
    Rule("O13", "E", bytes_computed, LIST),
    Rule("O14", "E", odd_constants, LIST),
)  # fmt: skip
