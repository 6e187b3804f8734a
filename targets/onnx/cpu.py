"""A Q/DQ file rewritten for ONNX Runtime's CPU provider: the same integers, where its int8 kernels can take them.

It makes one int8 operation of a layer between quantizers, on x86 only with unsigned codes, and only where the quantizer
stands right behind the layer. So here

- an activation's codes are 128 higher and unsigned, zero point 128;
- behind a ReLU, or what clips from 0 on, they are unsigned as they are, zero point 0, and the clipping comes after the
  rounding, as a Clip of codes: rounding keeps order and leaves 0 where it is, so the two can change places;
- a 1x1 convolution of codes that a sum reads, or anything else but a quantizer, is a product of whole numbers, times
  its scales: see products.py;
- the weight of any other convolution that stays float has a Cast and a Mul instead of a DequantizeLinear. ONNX Runtime
  computes those once; a DequantizeLinear it keeps for every frame, and then it has no fast layout for the convolution
  either.

`plain` undoes all of it, so that the file is read back as any with Q/DQ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.records.ledger import HIGH, LOW, Found
from edgemtl.targets import _onnx
from edgemtl.targets.onnx.editing import closed, opened
from edgemtl.targets.onnx.products import from_layers, to_layers

UNSIGNED, SIGNED, PLAIN = "zero/unsigned", "zero/signed", "zero/plain"  # names of the zero points 0, 128 and int8's 0
HIGHER = "zero/higher"  # 128 as a number, in wasm.py's form
ONE = "one"
CLIP, STEPS, RAW = "/Clip", "/steps", "/unclipped"  # after names of nodes and values
LAYERS = ("Conv", "ConvTranspose")
PASSED = (*_onnx.MOVES, "Clip", "Flatten", "Gather", "MaxPool", "Relu", "Slice", "Split")  # between layers and codes
MOVED = ("Mul", "Add", "Sub", "Div")  # operations with a constant, that could move into a layer


def rewritten(model: Any, products: bool = True) -> Any:
    """A copy of a Q/DQ model in this form; with no `products`, 1x1 convolutions that stay float are convolutions."""
    from onnx import helper

    made, constants, makers, readers = opened(model)
    fresh: dict[str, np.ndarray] = {UNSIGNED: np.uint8(0), SIGNED: np.uint8(-LOW)}  # type: ignore[dict-item]
    zeros: dict[str, str] = {}  # of codes, by the value that holds them
    gone: set[str] = set()  # clips whose only reader has taken them over
    nodes: list[Any] = []
    for node in made.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, clip = constants[node.input[1]], makers.get(node.input[0])
            limit = _limit(clip, constants) if scale.shape == () else None
            zeros[node.output[0]] = node.input[2] = SIGNED if limit is None else UNSIGNED
            nodes.append(node)
            if limit is not None and clip is not None:
                if readers[clip.output[0]] == [node]:
                    gone.add(clip.output[0])
                    node.input[0] = clip.input[0]
                end = round(min(HIGH, limit / float(scale)))  # half to even, as codes are rounded
                high = f"highest/{end}"
                fresh[high] = np.uint8(end)  # type: ignore[assignment]
                codes, node.output[0] = node.output[0], node.output[0] + RAW
                nodes.append(helper.make_node("Clip", [node.output[0], UNSIGNED, high], [codes], node.name + CLIP))
        elif node.op_type == "DequantizeLinear" and node.input[0] in zeros:
            node.input[2] = zeros[node.input[0]]
            nodes.append(node)
        elif node.op_type == "DequantizeLinear" and all(
            layer.op_type in LAYERS and not _int8(layer, makers, readers) and not _scaled(layer, constants, readers)
            for layer in readers[node.output[0]]
        ):
            nodes += multiplied(node, constants, fresh)
        else:
            nodes.append(node)
    made = closed(made, [node for node in nodes if node.output[0] not in gone], fresh)
    return from_layers(made) if products else made


def multiplied(node: Any, constants: dict[str, np.ndarray], fresh: dict[str, Any]) -> list[Any]:
    """A Cast and a Mul in the place of a weight's DequantizeLinear; puts the scale in its shape among `fresh`."""
    from onnx import helper

    codes = constants[node.input[0]]
    scale, axis = constants[node.input[1]], next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [-1 if i == axis else 1 for i in range(codes.ndim)] if scale.shape else []
    fresh[node.input[1] + STEPS] = scale.reshape(shape)
    steps = node.output[0] + STEPS
    return [
        helper.make_node("Cast", [node.input[0]], [steps], node.name + STEPS, to=1),
        helper.make_node("Mul", [steps, node.input[1] + STEPS], list(node.output), node.name),
    ]


def spelled_out(model: Any) -> Any:
    """A copy with each Softplus as Relu(x) + Log(1 + Exp(-Abs(x))), which ONNX Runtime has vector instructions for.

    Its own takes ten nanoseconds for a number: a fifth of nyud_sca_edge's time. The sum differs by float32's error; of
    the exact form, the codes that this is rounded to are far enough from it.
    """
    from onnx import helper

    made, *_ = opened(model)
    nodes: list[Any] = []
    for node in made.graph.node:
        if node.op_type != "Softplus":
            nodes.append(node)
            continue
        [x], [y] = node.input, node.output
        for kind, inputs, output in (
            ("Abs", [x], f"{y}/abs"), ("Neg", [f"{y}/abs"], f"{y}/neg"), ("Exp", [f"{y}/neg"], f"{y}/exp"),
            ("Add", [f"{y}/exp", ONE], f"{y}/above"), ("Log", [f"{y}/above"], f"{y}/log"), ("Relu", [x], f"{y}/relu"),
            ("Add", [f"{y}/relu", f"{y}/log"], y),
        ):  # fmt: skip
            name = node.name + output.removeprefix(y)
            nodes.append(helper.make_node(kind, inputs, [output], name))
    return closed(made, nodes, {ONE: np.float32(1)})


def plain(model: Any) -> Any:
    """A copy to be read, with Q/DQ as everywhere: without the clips of codes. What is not quite in this form stays.

    It reads wasm.py's form as well.
    """
    from onnx import helper

    made, constants, makers, _ = opened(to_layers(model))
    fresh: dict[str, np.ndarray] = {PLAIN: np.int8(0)}  # type: ignore[dict-item]
    clipped: set[str] = set()
    quantizers: set[str] = set()  # the codes they give
    nodes = []
    for node in made.graph.node:
        maker = makers.get(node.input[0]) if node.input else None
        if (
            node.op_type in ("QuantizeLinear", "DequantizeLinear")
            and _same(constants, node.input[2], -LOW)
            or node.op_type == "DequantizeLinear"
            and node.input[0] in clipped
            and _same(constants, node.input[2], 0)
        ):
            node.input[2] = PLAIN
            quantizers.update(node.output if node.op_type == "QuantizeLinear" else ())
        elif node.op_type == "Clip" and maker is not None and _clips_codes(node, maker, constants):
            clipped.add(node.output[0])
            maker.input[2], maker.output[0] = PLAIN, node.output[0]
            quantizers.add(node.output[0])
            continue
        elif node.op_type == "Mul" and maker is not None and maker.op_type == "Cast" and maker.input[0] in constants:
            scale = constants[node.input[1]]
            zero, flat = f"{node.input[1]}/zero", f"{node.input[1]}/flat"
            fresh[flat] = scale.reshape(-1) if scale.shape else scale
            fresh[zero] = np.zeros(fresh[flat].shape, np.int8)
            axis = int(np.argmax(scale.shape)) if scale.shape else 0
            inputs = [maker.input[0], flat, zero]
            node = helper.make_node("DequantizeLinear", inputs, list(node.output), node.name, axis=axis)
        elif node.op_type == "Mul" and (codes := _codes(maker, makers, constants, clipped)) in quantizers:
            node = helper.make_node("DequantizeLinear", [codes, node.input[1], PLAIN], list(node.output), node.name)
        nodes.append(node)
    return closed(made, nodes, fresh)


def _codes(maker: Any, makers: dict[str, Any], constants: dict[str, np.ndarray], clipped: set[str]) -> str | None:
    """The codes that a Cast brings back, with a Sub of 128 unless they end in a Clip; None for anything else."""
    higher = maker is not None and maker.op_type == "Sub" and np.array_equal(constants.get(maker.input[1], ()), -LOW)
    cast = makers.get(maker.input[0]) if higher else maker
    if cast is None or cast.op_type != "Cast" or (cast.input[0] in clipped) == higher:
        return None
    return str(cast.input[0])


def quantized(path: Path) -> list[Found]:
    """What the file holds of each quantized tensor, and its maps."""
    return _onnx.read_quantized(plain(_onnx.load(path)).graph)


def places(graph: Any) -> dict[str, str]:
    """See `_onnx.places`."""
    from onnx import helper

    return _onnx.places(plain(helper.make_model(graph)).graph)


def _limit(clip: Any, constants: dict[str, np.ndarray]) -> float | None:
    """Where a ReLU or a clip from 0 on ends; None for any other operation."""
    if clip is None or clip.op_type not in ("Relu", "Clip"):
        return None
    if clip.op_type == "Relu":
        return float("inf")
    low, high = (constants.get(value) for value in clip.input[1:])
    return None if low is None or high is None or low != 0 else float(high)


def _int8(layer: Any, makers: dict[str, Any], readers: dict[str, list[Any]]) -> bool:
    """Whether a layer reads codes and gives nothing but what becomes codes, so that ONNX Runtime may take it for int8.

    It also looks past what moves values. Where it finds a float weight there it makes codes of its own, other ones.
    """
    source, after = makers.get(layer.input[0]), readers[layer.output[0]]
    while source is not None and source.op_type in PASSED:
        source = makers.get(source.input[0])
    while len(after) == 1 and after[0].op_type in PASSED:
        after = readers[after[0].output[0]]
    reads = source is not None and source.op_type == "DequantizeLinear"
    return reads and [node.op_type for node in after] == ["QuantizeLinear"]


def _scaled(layer: Any, constants: dict[str, np.ndarray], readers: dict[str, list[Any]]) -> bool:
    """Whether a constant is multiplied or added to what a layer gives: ONNX Runtime would move it into weights that it
    knows, which rounds otherwise."""
    after = readers[layer.output[0]]
    return len(after) == 1 and after[0].op_type in MOVED and any(value in constants for value in after[0].input)


def _clips_codes(clip: Any, source: Any, constants: dict[str, np.ndarray]) -> bool:
    """Whether a Clip ends unsigned codes within 0..127."""
    low, high = (constants.get(value) for value in clip.input[1:])
    unsigned = source.op_type == "QuantizeLinear" and _same(constants, source.input[2], 0)
    return bool(unsigned and low is not None and low == 0 and high is not None and high <= HIGH)


def _same(constants: dict[str, np.ndarray], zero: str, value: int) -> bool:
    found = constants.get(zero)
    return found is not None and found.dtype == np.uint8 and bool((found == value).all())
