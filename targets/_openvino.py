"""A finished OpenVINO IR, read from its nodes as they lie in the file: quantized tensors, torch's modules."""

from __future__ import annotations

import re
from typing import Any, Iterable

import numpy as np

from edgemtl import ledger
from edgemtl.ledger import Found

INTEGERS = {"i8": 8, "u8": 8, "i4": 4, "u4": 4}  # bits
LEVELS = {8: 256, 4: 16}
SCOPE = re.compile(r"__module\.(.+?)/aten::")  # of a traced module's operation
PRODUCTS = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul"}
NUMBER = re.compile(r"_\d+$")
MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze"}  # values stay as they are


def quantized(model: Any) -> list[Found]:
    """One for each FakeQuantize and for each use of an integer constant as a number with a scale.

    No transformation runs on `model`, so that this is the file, not what a device would make of it.
    """
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            found.append(_activation(node))
        elif node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in INTEGERS:
            found += [_weight(node, convert) for convert in _targets(node) if convert.get_type_name() == "Convert"]
    return found


def _activation(node: Any) -> Found:
    low, high, low_out, high_out = (_constant(node, port) for port in range(1, 5))
    name, readers = ledger.name(node.get_friendly_name()), tuple(sorted(_readers(node)))
    if low is None or high is None or low_out is None or high_out is None:
        return Found(name, "activation", 8, None, ledger.NO_SCALE, None, readers, "its range is no constant")
    scale = low / np.float32(ledger.LOW)  # a power of two, so nothing rounds
    levels = node.get_attributes()["levels"]
    problem = None
    if levels != 256:
        problem = f"{levels} levels, expected 256"
    elif not (_same(low, low_out) and _same(high, high_out) and _same(high, scale * np.float32(ledger.HIGH))):
        ranges = f"{_first(low)}..{_first(high)} becomes {_first(low_out)}..{_first(high_out)}"
        problem = f"its range {ranges}, expected -128..127 times one scale"
    wide = [axis for axis, size in enumerate(scale.shape) if size > 1]
    axis = wide[0] if wide else None
    return Found(name, "activation", 8, axis, scale.reshape(() if axis is None else -1), None, readers, problem)


def _weight(constant: Any, convert: Any) -> Found:
    """A constant behind Convert, Subtract where a zero point is stored, and Multiply, which has the ledger's name."""
    kind = constant.get_element_type().get_type_name()
    codes = np.array(constant.get_data())
    problem = None if kind == "i8" else f"codes {kind}, expected i8"
    node = convert
    for step in _targets(convert):
        if step.get_type_name() == "Subtract":
            zero = _constant(step, 1)
            if zero is None or zero.any():
                problem = f"zero point {'computed' if zero is None else _first(zero[zero != 0])}, expected 0"
            node = step
    multiplies = [step for step in _targets(node) if step.get_type_name() == "Multiply"]
    if len(multiplies) != 1:
        where = constant.get_friendly_name()
        return Found(where, "weight", INTEGERS[kind], None, ledger.NO_SCALE, codes, (), "codes without a scale")
    [multiply] = multiplies
    scale = _constant(multiply, 1)
    name, readers = ledger.name(multiply.get_friendly_name()), tuple(sorted(_readers(multiply)))
    if scale is None:
        return Found(name, "weight", INTEGERS[kind], None, ledger.NO_SCALE, codes, readers, "its scale is no constant")
    axis = _axis(scale, codes)
    return Found(
        name, "weight", INTEGERS[kind], axis, scale.reshape(() if axis is None else -1), codes, readers, problem
    )


def _axis(scale: np.ndarray, codes: np.ndarray) -> int | None:
    """The axis of the channels: the scale is as long as it there and 1 elsewhere."""
    if scale.ndim != codes.ndim:
        return None
    fitting = [i for i, (a, b) in enumerate(zip(codes.shape, scale.shape)) if a == b == scale.size]
    return fitting[0] if fitting else None


def _constant(node: Any, port: int) -> np.ndarray | None:
    source = node.input_value(port).get_node()
    return np.array(source.get_data()) if source.get_type_name() == "Constant" else None


def _targets(node: Any) -> list[Any]:
    return [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]


def _readers(node: Any) -> Iterable[str]:
    for reader in _targets(node):
        if reader.get_type_name() in MOVES:
            yield from _readers(reader)
        else:
            yield reader.get_friendly_name()


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype == np.float32 and first.tobytes() == second.tobytes()


def _first(values: np.ndarray) -> str:
    return f"{values.flat[0]:.9g}"


# ---- values inside


def places(model: Any) -> dict[str, Any]:
    """Outputs of nodes by torch's names: a module's last operation for each call, and each activation's FakeQuantize.

    The front end names a node after the module it came from and numbers equal names, so calls are told apart.
    """
    found = {node.get_friendly_name(): node.output(0) for node in _ordered(model, "FakeQuantize")}
    scopes: dict[str, list[str]] = {}
    nodes = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" and (scope := _scope(node)):
            scopes.setdefault(scope, []).append(node.get_friendly_name())
            nodes[node.get_friendly_name()] = node
    for path, names in scopes.items():
        last = NUMBER.sub("", names[-1])
        if any(_bias_follows(nodes[name]) for name in names):
            continue
        calls = [name for name in names if NUMBER.sub("", name) == last]
        for index, name in enumerate(sorted(calls, key=lambda name: _number(name))):
            found[ledger.place(path, index)] = nodes[name].output(0)
    return found


def _bias_follows(node: Any) -> bool:
    """Whether a constant is added to a product by another module: the layer's own bias may have been merged into it."""
    readers = _targets(node)
    adds = len(readers) == 1 and readers[0].get_type_name() == "Add" and "Constant" in _sources(readers[0])
    return node.get_type_name() in PRODUCTS and adds and _scope(node) != _scope(readers[0])


def _scope(node: Any) -> str | None:
    match = SCOPE.match(node.get_friendly_name())
    return match[1] if match else None


def _sources(node: Any) -> list[str]:
    return [node.input_value(port).get_node().get_type_name() for port in range(node.get_input_size())]


def _ordered(model: Any, kind: str) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def _number(name: str) -> int:
    match = NUMBER.search(name)
    return int(match[0][1:]) if match else 0
