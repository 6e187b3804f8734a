"""The file for ONNX Runtime's CPU provider, rewritten for WebAssembly, where that has other kernels: the same integers.

There an int8 convolution that becomes a product of matrices has vector instructions, and a 3x3 one is three times as
fast as in float. A depthwise one has none and is fourteen times as slow, and one that adds up few products pays more
for the rounding than it gains. So here these compute in float between their quantizers, which gives the same sums:
whole numbers below 2**24, times their scales. A Cast, a Sub and a Mul bring the codes back, since ONNX Runtime would
make int8 of what stands behind a DequantizeLinear. `cpu.plain` undoes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgemtl.records.ledger import LOW
from edgemtl.targets.onnx import cpu
from edgemtl.targets.onnx.editing import closed, opened

FEW = 24  # products a value


def rewritten(model: Any) -> Any:
    """A copy of a model in cpu.py's form, without its products."""
    made, constants, makers, readers = opened(model)
    fresh: dict[str, Any] = {cpu.HIGHER: np.float32(-LOW)}
    back: set[str] = set()  # values that DequantizeLinear gives, and here a Mul
    for layer in made.graph.node:
        sources = [makers.get(value) for value in layer.input[:2]]
        if layer.op_type == "Conv" and all(s is not None and s.op_type == "DequantizeLinear" for s in sources):
            codes = constants.get(makers[layer.input[1]].input[0])
            if codes is not None and (codes.shape[1] == 1 or codes[0].size <= FEW):
                back.update(layer.input[:2])
    nodes: list[Any] = []
    for node in made.graph.node:
        if node.op_type != "DequantizeLinear" or node.output[0] not in back:
            nodes.append(node)
        elif node.input[0] in constants:
            nodes += cpu.multiplied(node, constants, fresh)
        else:
            nodes += _numbers(node, higher=bool(constants[node.input[2]].any()))
    return closed(made, nodes, fresh)


def _numbers(node: Any, higher: bool) -> list[Any]:
    """What computes the same as the DequantizeLinear of an activation, whose codes may be 128 higher."""
    from onnx import helper

    values = [node.output[0] + cpu.STEPS]
    nodes = [helper.make_node("Cast", [node.input[0]], values[:], node.name + cpu.STEPS, to=1)]
    if higher:
        values.append(f"{values[0]}/lower")
        nodes.append(helper.make_node("Sub", [values[0], cpu.HIGHER], values[1:], f"{node.name}{cpu.STEPS}/lower"))
    return [*nodes, helper.make_node("Mul", [values[-1], node.input[1]], list(node.output), node.name)]
