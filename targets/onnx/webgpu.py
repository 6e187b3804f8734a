"""Rewrites a Q/DQ file for ONNX Runtime's WebGPU provider: the same integers, and no step that needs the CPU.

That provider has DequantizeLinear, which weights keep, but neither QuantizeLinear nor Round: every quantizer of an
activation would be a trip from the GPU to the CPU and back. Here each quantizer is

    Mul (the scale's reciprocal), Add 1.5 * 2**23, Sub 1.5 * 2**23, Clip -128 .. 127, Mul (the scale)

From 1.5 * 2**23 on, float32 has no fractions: adding it rounds half to even, as QuantizeLinear does. Values of 2**22 or
more may round differently, but Clip gives them the same code. Each step is an operation, and so a shader, of its own:
no compiler sees both sums and removes them. Where a scale is no power of two, the first step divides by it, as
QuantizeLinear does. In WGSL a division may be off by 2.5 units in the last place, so that only scales that are powers
of two are sure to give the same codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.records import ledger
from edgemtl.records.ledger import Found
from edgemtl.targets import _onnx

ROUND = np.float32(1.5 * 2**23)
STEPS = ("Clip", "Sub", "Add")  # before the last Mul, backwards


def rewritten(model: Any) -> Any:
    """A copy of a Q/DQ model in which activations are quantized by arithmetic that a GPU has.

    Operations and constants keep the ledger's names; the Mul that ends a quantizer has the DequantizeLinear's.
    """
    from onnx import helper, numpy_helper

    copy = type(model)()
    copy.CopyFrom(model)
    graph = copy.graph
    constants = _onnx._constants(graph)
    fresh: dict[str, Any] = {}

    def constant(name: str, value: Any) -> str:
        if name not in constants:
            constants[name] = fresh[name] = np.float32(value)
        return name

    nodes: list[Any] = []
    codes: set[str] = set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            x, scale = node.input[0], constants[node.input[1]]
            assert scale.shape == () and not constants[node.input[2]].any()
            name, step = ledger.entry_name(node.name.removesuffix(_onnx.QUANTIZE)), node.input[1]
            kind = "Div"
            if np.frexp(scale)[0] == 0.5:  # a power of two
                kind, step = "Mul", constant(f"{name}/reciprocal", 1 / scale)
            round_ = constant("round", ROUND)
            values = [f"{node.output[0]}/{after}" for after in ("steps", "high", "rounded")]
            low, high = constant("lowest", ledger.LOW), constant("highest", ledger.HIGH)
            for operation, inputs, output in (
                (kind, [x, step], values[0]),
                ("Add", [values[0], round_], values[1]),
                ("Sub", [values[1], round_], values[2]),
                ("Clip", [values[2], low, high], node.output[0]),
            ):
                nodes.append(helper.make_node(operation, inputs, [output], f"{node.name}/{operation}"))
            codes.add(node.output[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in codes:
            nodes.append(helper.make_node("Mul", [node.input[0], node.input[1]], [node.output[0]], node.name))
        else:
            nodes.append(node)
    used = {value for node in nodes for value in node.input}
    initializers = [stored for stored in graph.initializer if stored.name in used]
    initializers += [numpy_helper.from_array(value, name) for name, value in fresh.items()]
    typed = [value for value in graph.value_info if value.name not in codes]  # they are float now
    nodes = [node for node in nodes if node.op_type != "Constant" or node.output[0] in used]
    lists: tuple[tuple[Any, list[Any]], ...] = (
        (graph.node, nodes),
        (graph.initializer, initializers),
        (graph.value_info, typed),
    )
    for field, entries in lists:
        kept = [type(entry).FromString(entry.SerializeToString()) for entry in entries]  # `del` below empties them
        del field[:]
        field.extend(kept)
    return copy


def quantized(path: Path) -> list[Found]:
    """What the rewritten file holds of each quantized tensor, one for each stored weight and rounding, and its maps."""
    graph = _onnx.load(path).graph
    makers, chains = _chains(graph)
    reading, constants = _onnx.Reading(graph, chains), _onnx._constants(graph)
    activations = [_found(makers[value], chain, constants, reading) for value, chain in chains.items()]
    return [*activations, *_onnx.read_quantized(graph, reading)]


def places(graph: Any) -> dict[str, str]:
    """The values that quantizers give, by their names."""
    makers, chains = _chains(graph)
    return {makers[value].name: value for value in chains}


def _chains(graph: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Which node makes each value, and the chains of quantizers by the value that they give."""
    makers = {output: node for node in graph.node for output in node.output}
    return makers, {node.output[0]: chain for node in graph.node if (chain := _chain(node, makers))}


def _chain(node: Any, makers: dict[str, Any]) -> list[Any] | None:
    """The Clip, Sub, Add and Mul or Div before a Mul that ends a quantizer; None for any other operation."""
    if node.op_type != "Mul":
        return None
    chain = [node]
    for kinds in (*((kind,) for kind in STEPS), ("Mul", "Div")):
        before = makers.get(chain[-1].input[0])
        if before is None or before.op_type not in kinds:
            return None
        chain.append(before)
    return chain[1:]


def _found(node: Any, chain: list[Any], constants: dict[str, np.ndarray], reading: _onnx.Reading) -> Found:
    clip, sub, add, into = chain
    scale, step = constants.get(node.input[1]), constants.get(into.input[1])
    limits = [float(constants[value]) if value in constants else None for value in clip.input[1:]]
    rounds = [constants.get(part.input[1]) for part in (add, sub)]
    problem = None
    if scale is None or step is None:
        problem, scale = "its scale is no constant", ledger.NO_SCALE
    elif limits != [ledger.LOW, ledger.HIGH]:
        problem = f"its codes end at {limits}, expected {ledger.LOW} and {ledger.HIGH}"
    elif any(value is None or value != ROUND for value in rounds):
        problem = f"it rounds by {rounds}, expected {ROUND:.0f}"
    elif (step if into.op_type == "Div" else 1 / step) != scale:
        problem = f"it begins with {into.op_type} {step:.9g}, and its scale is {scale:.9g}"
    readers = tuple(map(_onnx.called, reading.readers(node.output[0])))
    reads = (reading.above(into.input[:1]),)
    return Found(ledger.entry_name(node.name), "activation", 8, None, scale, None, readers, reads, problem)
