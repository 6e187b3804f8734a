"""Hand-made ONNX models of one or two operators, by name: what the lint is tried on, and TensorRT's own parser."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

TYPES = {
    "f": T.FLOAT,
    "h": T.FLOAT16,
    "d": T.DOUBLE,
    "i": T.INT32,
    "l": T.INT64,
    "u": T.UINT8,
    "w": T.UINT32,
    "b": T.INT8,
    "o": T.BOOL,
}
ZERO, UZERO = np.int8(0), np.uint8(0)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    domain = attributes.pop("domain", "")
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), f"{kind}_{outputs.split()[0]}", domain=domain, **attributes)


def model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, list[Any]]],
    outputs: Mapping[str, tuple[str, list[Any]]],
    opset: int = 17,
    **constants: Any,
) -> onnx.ModelProto:
    """`inputs` and `outputs` give a type's letter and a shape for each name."""
    ends = [
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, (kind, shape) in group.items()]
        for group in (inputs, outputs)
    ]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(d, 1) for d in {n.domain for n in nodes} - {""}]
    return helper.make_model(
        helper.make_graph(nodes, "small", *ends, held), opset_imports=opsets, ir_version=8 if opset < 19 else 9
    )


def one(
    kind: str, shape: list[Any], result: list[Any], types: str = "ff", opset: int = 17, **given: Any
) -> onnx.ModelProto:
    """One operator from x to y; arrays of `given` become its further inputs in order, the rest its attributes."""
    arrays = {name: value for name, value in given.items() if isinstance(value, (np.ndarray, np.generic))}
    attributes = {name: value for name, value in given.items() if name not in arrays}
    made = node(kind, " ".join(["x", *arrays]), "y", **attributes)
    return model([made], {"x": (types[0], shape)}, {"y": (types[1], result)}, opset, **arrays)


MAP = [1, 4, 8, 8]
WEIGHT = np.arange(-72, 72, dtype=np.int8).reshape(4, 4, 3, 3)
SCALES = np.full(4, 2.0**-8, np.float32)
STEP = np.float32(0.5)


def pair(tensor: str, result: str, scale: str = "s", zero: str = "z", **attributes: Any) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear."""
    end = f"{scale} {zero}".strip()
    return [
        node("QuantizeLinear", f"{tensor} {end}", f"{result}_q", **attributes),
        node("DequantizeLinear", f"{result}_q {end}", result, **attributes),
    ]


def layer(tensor: str, result: str, weight: str = "w") -> list[onnx.NodeProto]:
    """A convolution with an int8 weight."""
    return [
        node("DequantizeLinear", f"{weight} ws wz", f"{result}_w", axis=0),
        node("Conv", f"{tensor} {result}_w", result, pads=[1, 1, 1, 1]),
    ]


HELD: dict[str, Any] = {"s": STEP, "z": ZERO, "w": WEIGHT, "ws": SCALES, "wz": np.zeros(4, np.int8)}


def quantized(nodes: list[onnx.NodeProto], result: list[Any] = MAP, opset: int = 17, **held: Any) -> onnx.ModelProto:
    """From float x of MAP to float y; constants that no node reads are left out."""
    read = {name for n in nodes for name in n.input}
    known = {name: value for name, value in {**HELD, **held}.items() if name in read}
    return model(nodes, {"x": ("f", MAP)}, {"y": ("f", result)}, opset, **known)


def conv(
    scale: Any = STEP, zero: Any = ZERO, weight: Any = WEIGHT, weight_zero: Any = HELD["wz"], axis: int = 0
) -> onnx.ModelProto:
    """An int8 convolution: Q/DQ before it, codes and DQ for its weight."""
    nodes = [
        *pair("x", "d"),
        node("DequantizeLinear", "w ws wz", "v", axis=axis),
        node("Conv", "d v", "y", pads=[1, 1, 1, 1]),
    ]
    return quantized(nodes, s=scale, z=zero, w=weight, wz=weight_zero)


def grid(
    x: str = "f", positions: str = "f", opset: int = 17, rank: int = 4, mode: str = "bilinear", **held: Any
) -> onnx.ModelProto:
    spatial = [8] * (rank - 2)
    made = [node("GridSample", "x g", "y", mode=mode)]
    inputs = {"x": (x, [1, 4, *spatial]), "g": (positions, [1, *spatial, rank - 2])}
    if held:
        made.append(node("Cast", "half", "unused", to=T.FLOAT))
    return model(made, inputs, {"y": (x, [1, 4, *spatial])}, opset, **held)


ONES = np.ones(8, np.float32)


def norm(x: str = "f", scale: Any = ONES, outputs: str = "y") -> onnx.ModelProto:
    made = node("LayerNormalization", "x s", outputs, axis=-1)
    return model([made], {"x": (x, [1, 4, 8])}, {"y": (x, [1, 4, 8])}, s=scale)


def mean_of_squares(kind: str) -> onnx.ModelProto:
    nodes = [node("Mul", "x x", "p"), node("ReduceMean", "p", "y", axes=[2], keepdims=1)]
    return model(nodes, {"x": (kind, [1, 4, 8])}, {"y": (kind, [1, 4, 1])})


def deformable() -> onnx.ModelProto:
    inputs = {"x": ("f", MAP), "o": ("f", [1, 18, 8, 8])}
    made = node("DeformConv", "x w o", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return model([made], inputs, {"y": ("f", MAP)}, 19, w=np.ones((4, 4, 3, 3), np.float32))


def attention(**attributes: Any) -> onnx.ModelProto:
    ends = {name: ("f", [1, 2, 8, 16]) for name in "qkv"}
    return model([node("Attention", "q k v", "y", **attributes)], ends, {"y": ("f", [1, 2, 8, 16])}, 23)


def branching() -> onnx.ModelProto:
    inner = helper.make_graph([node("Relu", "x", "b")], "inner", [], [helper.make_tensor_value_info("b", T.FLOAT, [4])])
    other = helper.make_graph([node("Neg", "x", "c")], "other", [], [helper.make_tensor_value_info("c", T.FLOAT, [4])])
    made = helper.make_node("If", ["cond"], ["y"], "If_y", then_branch=inner, else_branch=other)
    return model([made], {"x": ("f", [4])}, {"y": ("f", [4])}, cond=np.array(True))


def topk(count: int, **attributes: Any) -> onnx.ModelProto:
    made = node("TopK", "x k", "y i", axis=1, **attributes)
    return model([made], {"x": ("f", [1, 8000])}, {"y": ("f", [1, count])}, k=np.array([count], np.int64))


def reduced(constant: bool) -> onnx.ModelProto:
    """A sum over an axis that is stored, or that is an input of the model."""
    made, axes = node("ReduceSum", "x a", "y", keepdims=0), np.array([1], np.int64)
    inputs: dict[str, tuple[str, list[Any]]] = {"x": ("f", [2, 3])} | ({} if constant else {"a": ("l", [1])})
    return model([made], inputs, {"y": ("f", [2])}, **({"a": axes} if constant else {}))


def pooled(kind: str = "MaxPool", outputs: str = "y", **attributes: Any) -> onnx.ModelProto:
    made = node(kind, "x", outputs, kernel_shape=[2, 2], **attributes)
    size = 8 - max(attributes.get("dilations", [1]))
    ends: dict[str, tuple[str, list[Any]]] = {"y": ("f", [1, 4, size, size]), "at": ("l", [1, 4, size, size])}
    return model([made], {"x": ("f", MAP)}, {name: ends[name] for name in outputs.split()}, 19 if attributes else 17)


def recurrent(**attributes: Any) -> onnx.ModelProto:
    arrays = {"w": np.zeros((1, 16, 3), np.float32), "r": np.zeros((1, 16, 4), np.float32)}
    return one("LSTM", [2, 1, 3], [2, 1, 1, 4], hidden_size=4, **attributes, **arrays)


def instance_norm(constant: bool) -> onnx.ModelProto:
    made, held = node("InstanceNormalization", "x s b", "y"), {n: np.ones(4, np.float32) for n in "sb"}
    inputs: dict[str, tuple[str, list[Any]]] = {"x": ("f", MAP)}
    more: dict[str, tuple[str, list[Any]]] = {} if constant else {n: ("f", [4]) for n in "sb"}
    return model([made], inputs | more, {"y": ("f", MAP)}, **(held if constant else {}))


def sequence() -> onnx.ModelProto:
    made = one("SequenceLength", [4], [], "fl")
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(T.FLOAT, [4]))
    made.graph.input[0].CopyFrom(helper.make_value_info("x", kind))
    return made


def text() -> onnx.ModelProto:
    """A Constant that holds a word, beside what the model is for."""
    word = helper.make_node("Constant", [], ["word"], "word", value_string="no number")
    return model([word, node("Relu", "x", "y")], {"x": ("f", [4])}, {"y": ("f", [4])})


def counted(kind: str) -> onnx.ModelProto:
    """A Range from 0 to 4 in a type, and its first numbers."""
    dtype = {"f": np.float32, "h": np.float16}[kind]
    held = {name: np.array(value, dtype) for name, value in {"a": 0, "b": 4, "c": 1}.items()}
    return model([node("Range", "a b c", "r"), node("Add", "x r", "y")], {"x": (kind, [4])}, {"y": (kind, [4])}, **held)


def bytes_added(cast: bool) -> onnx.ModelProto:
    """A stored uint8 added to another, or cast before that."""
    held = {"u": np.ones(4, np.uint8), "v": np.ones(4, np.uint8)}
    casts = [node("Cast", name, f"{name}f", to=T.FLOAT) for name in "uv"] if cast else []
    ends = [node("Add", "uf vf" if cast else "u v", "s"), node("Cast", "s", "t", to=T.FLOAT), node("Add", "x t", "y")]
    return model([*casts, *ends], {"x": ("f", [4])}, {"y": ("f", [4])}, **held)


def scatter(**attributes: Any) -> onnx.ModelProto:
    made = node("ScatterND", "x i v", "y", **attributes)
    held = {"i": np.array([[1], [3]], np.int64), "v": np.ones(2, np.float32)}
    return model([made], {"x": ("f", [8])}, {"y": ("f", [8])}, **held)


def scatter_elements(**attributes: Any) -> onnx.ModelProto:
    opset = 16 if attributes else 13
    held = {"i": np.array([1, 3], np.int64), "v": np.ones(2, np.float32)}
    return one("ScatterElements", [8], [8], opset=opset, **held, **attributes)


def added(value: Any, kind: str = "f") -> onnx.ModelProto:
    return model([node("Add", "x c", "y")], {"x": (kind, [4])}, {"y": (kind, [4])}, c=value)


def resized(**attributes: Any) -> onnx.ModelProto:
    made = node("Resize", "x - f", "y", **attributes)
    held = {"f": np.array([1, 1, 2, 2], np.float32)}
    opset = 19 if {"antialias", "keep_aspect_ratio_policy", "coordinate_transformation_mode"} & set(attributes) else 17
    return model([made], {"x": ("f", MAP)}, {"y": ("f", [1, 4, 16, 16])}, opset, **held)


def camera(cast_first: bool) -> onnx.ModelProto:
    turn, cast = {"perm": [0, 3, 1, 2]}, {"to": T.FLOAT}
    steps = [("Cast", cast), ("Transpose", turn)] if cast_first else [("Transpose", turn), ("Cast", cast)]
    nodes = [node(kind, *ends, **given) for (kind, given), ends in zip(steps, (("x", "m"), ("m", "y")))]
    return model(nodes, {"x": ("u", [1, 8, 8, 3])}, {"y": ("f", [1, 3, 8, 8])})


def classes(through_float: bool) -> onnx.ModelProto:
    nodes = [node("ArgMax", "x", "a", axis=1, keepdims=0)]
    nodes += [node("Cast", "a", "b", to=T.FLOAT)] if through_float else []
    nodes.append(node("Cast", "b" if through_float else "a", "y", to=T.UINT8))
    return model(nodes, {"x": ("f", MAP)}, {"y": ("u", [1, 8, 8])})


def named(name: str) -> onnx.ModelProto:
    """An int8 convolution whose weight's DequantizeLinear is called `name`; the weight is called w."""
    made = conv()
    [_, _, dequantize, _] = made.graph.node
    dequantize.name = name
    return made


def dynamically_quantized() -> onnx.ModelProto:
    return model([node("DynamicQuantizeLinear", "x", "y s z")], {"x": ("f", [4])}, {"y": ("u", [4])})


def computed(which: str) -> onnx.ModelProto:
    """Q/DQ whose scale or zero point is an input."""
    inputs = {"x": ("f", MAP), **({"s": ("f", [])} if which == "scale" else {"z": ("b", [])})}
    held = {"z": ZERO} if which == "scale" else {"s": STEP}
    return model(pair("x", "y"), inputs, {"y": ("f", MAP)}, **held)


def biased(quantized_bias: bool) -> onnx.ModelProto:
    nodes = [*pair("x", "d"), node("DequantizeLinear", "w ws wz", "v", axis=0)]
    nodes += [node("DequantizeLinear", "b ws", "c", axis=0)] if quantized_bias else []
    nodes.append(node("Conv", f"d v {'c' if quantized_bias else 'b'}", "y", pads=[1, 1, 1, 1]))
    return quantized(nodes, b=np.zeros(4, np.int32 if quantized_bias else np.float32))


def clipped(between: bool) -> onnx.ModelProto:
    clip = node("Relu", "q" if between else "y_q2", "c" if between else "y")
    if between:
        nodes = [
            node("QuantizeLinear", "x s z", "q"),
            node("Clip", "q low high", "c"),
            node("DequantizeLinear", "c s z", "y"),
        ]
        return quantized(nodes, low=np.int8(-100), high=np.int8(100))
    return quantized([*pair("x", "y_q2"), clip])


def per_channel() -> onnx.ModelProto:
    return quantized(pair("x", "y", "ws", "wz", axis=1))


def matrix(axis: int, turned: bool = False) -> onnx.ModelProto:
    """Linear layers: x (2, 6) times an int8 weight (6, 5), or its transpose."""
    code = np.arange(30, dtype=np.int8).reshape((5, 6) if turned else (6, 5))
    count = code.shape[axis]
    nodes = [*pair("x", "d"), node("DequantizeLinear", "w ws wz", "v", axis=axis)]
    nodes += [node("Transpose", "v", "t", perm=[1, 0])] if turned else []
    nodes.append(node("MatMul", f"d {'t' if turned else 'v'}", "y"))
    held = {"s": STEP, "z": ZERO, "w": code, "ws": np.full(count, 0.01, np.float32), "wz": np.zeros(count, np.int8)}
    return model(nodes, {"x": ("f", [2, 6])}, {"y": ("f", [2, 5])}, **held)


def norm_weights(int8: bool) -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", "g s z", "n")] if int8 else []
    nodes.append(node("LayerNormalization", f"x {'n' if int8 else 'g'}", "y", axis=-1))
    held: dict[str, Any] = {"s": STEP, "z": ZERO} if int8 else {}
    held["g"] = np.full(8, 2, np.int8 if int8 else np.float32)
    return model(nodes, {"x": ("f", [1, 4, 8])}, {"y": ("f", [1, 4, 8])}, **held)


def residual(skip: bool, branch: bool) -> onnx.ModelProto:
    """y = conv(x) + x, with Q/DQ on the skip connection or behind the convolution."""
    nodes = [*pair("x", "d"), *layer("d", "c")]
    nodes += pair("x", "k") if skip else []
    nodes += pair("c", "e") if branch else []
    return quantized([*nodes, node("Add", f"{'e' if branch else 'c'} {'k' if skip else 'x'}", "y")])


def concatenated(second: float) -> onnx.ModelProto:
    nodes = [*pair("x", "a"), *pair("x", "b", "s2"), node("Concat", "a b", "y", axis=1)]
    return quantized(nodes, [1, 8, 8, 8], s2=np.float32(second))


def cast_weight(between: bool) -> onnx.ModelProto:
    nodes = [*pair("x", "d"), node("DequantizeLinear", "w ws wz", "v", axis=0)]
    nodes += [node("Cast", "d", "dh", to=T.FLOAT16), node("Cast", "v", "vh", to=T.FLOAT16)] if between else []
    nodes += [node("Conv", "dh vh" if between else "d v", "h" if between else "y", pads=[1, 1, 1, 1])]
    nodes += [node("Cast", "h", "y", to=T.FLOAT)] if between else []
    return quantized(nodes)
