"""Reads a finished OpenVINO IR, node by node as in the file: its quantized tensors, and torch's modules."""

import re
from typing import Any, Iterable, Iterator

import numpy as np

from edgemtl.records import ledger
from edgemtl.records.ledger import Found
from edgemtl.targets.openvino.nodes import of_kind, readers, sources

INTEGERS = {"i8": 8, "u8": 8, "i4": 4, "u4": 4}  # bits
LEVELS = {8: 256, 4: 16}
SCOPE = re.compile(r"__module\.(.+?)/aten::")  # of a traced module's operation
PRODUCTS = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul"}
NUMBER = re.compile(r"_\d+$")
MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze"}  # values stay as they are


def quantized(model: Any) -> list[Found]:
    """An entry for each FakeQuantize, for each use of an integer constant with a scale, and for each output.

    No transformation runs on `model`: this is the file, not what a device makes of it.
    """
    nodes = model.get_ordered_ops()
    above = _Above(nodes)
    entries = [_activation(node, above) for node in nodes if node.get_type_name() == "FakeQuantize"]
    for constant, convert in _decoded(nodes):
        entries.append(_weight(constant, convert, above))
    maps = [(name, port.node) for port in model.outputs for name in sorted(port.names)]
    return [*entries, *(ledger.output(name, above([node])) for name, node in maps)]


def _decoded(nodes: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Every integer constant with each Convert that makes numbers of it."""
    for node in nodes:
        if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in INTEGERS:
            yield from ((node, convert) for convert in readers(node) if convert.get_type_name() == "Convert")


class _Above:
    """`ledger.sources` in a model: called with nodes, which are told apart by their names."""

    def __init__(self, nodes: list[Any]) -> None:
        self.nodes = {node.get_friendly_name(): node for node in nodes}
        named = [node for node in nodes if node.get_type_name() == "FakeQuantize"]
        named += [step for _, convert in _decoded(nodes) for step in _scaled(convert)]
        self.names = {node.get_friendly_name(): ledger.entry_name(node.get_friendly_name()) for node in named}

    def __call__(self, nodes: Iterable[Any]) -> tuple[str, ...]:
        return ledger.sources([node.get_friendly_name() for node in nodes], self.names.get, self._before)

    def _before(self, name: str) -> Iterable[str]:
        node = self.nodes[name]
        return [source.get_friendly_name() for source in sources(node)] if node.get_type_name() != "ShapeOf" else ()


def _activation(node: Any, above: _Above) -> Found:
    low, high, low_out, high_out = (_constant(node, port) for port in range(1, 5))
    names = tuple(sorted(reader.get_friendly_name() for reader in _readers(node)))
    plain = Found(ledger.entry_name(node.get_friendly_name()), "activation", 8, None, ledger.NO_SCALE, None, names)
    plain = plain._replace(reads=(above(sources(node)[:1]),))
    if low is None or high is None or low_out is None or high_out is None:
        return plain._replace(problem="its range is no constant")
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
    return plain._replace(axis=axis, scale=scale.reshape(() if axis is None else -1), problem=problem)


def _weight(constant: Any, convert: Any, above: _Above) -> Found:
    """A constant behind Convert, Subtract where a zero point is stored, and Multiply, which has the ledger's name."""
    kind = constant.get_element_type().get_type_name()
    codes = np.array(constant.get_data())
    problem = None if kind == "i8" else f"codes {kind}, expected i8"
    for step in readers(convert):
        if step.get_type_name() == "Subtract":
            zero = _constant(step, 1)
            if zero is None or zero.any():
                problem = f"zero point {'computed' if zero is None else _first(zero[zero != 0])}, expected 0"
    plain = Found(constant.get_friendly_name(), "weight", INTEGERS[kind], None, ledger.NO_SCALE, codes)
    multiplies = _scaled(convert)
    if len(multiplies) != 1:
        return plain._replace(problem="codes without a scale")
    [multiply] = multiplies
    scale = _constant(multiply, 1)
    name, layers = ledger.entry_name(multiply.get_friendly_name()), _readers(multiply)
    names = tuple(sorted(layer.get_friendly_name() for layer in layers))
    reads = tuple(tuple(other for other in above(sources(layer)) if other != name) for layer in layers)
    plain = plain._replace(name=name, readers=names, reads=reads)
    if scale is None:
        return plain._replace(problem="its scale is no constant")
    axis = _axis(scale, codes)
    return plain._replace(axis=axis, scale=scale.reshape(() if axis is None else -1), problem=problem)


def _scaled(convert: Any) -> list[Any]:
    """The Multiplies that give a scale to converted codes, behind a Subtract where there is one."""
    steps = readers(convert)
    node = next((step for step in reversed(steps) if step.get_type_name() == "Subtract"), None)
    return [step for step in (steps if node is None else readers(node)) if step.get_type_name() == "Multiply"]


def _axis(scale: np.ndarray, codes: np.ndarray) -> int | None:
    """The axis of the channels: the scale is as long as it there and 1 elsewhere."""
    if scale.ndim != codes.ndim:
        return None
    fitting = [i for i, (a, b) in enumerate(zip(codes.shape, scale.shape)) if a == b == scale.size]
    return fitting[0] if fitting else None


def _constant(node: Any, port: int) -> np.ndarray | None:
    source = node.input_value(port).get_node()
    return np.array(source.get_data()) if source.get_type_name() == "Constant" else None


def _readers(node: Any) -> list[Any]:
    after: list[Any] = []
    for reader in readers(node):
        after += _readers(reader) if reader.get_type_name() in MOVES else [reader]
    return after


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype == np.float32 and first.tobytes() == second.tobytes()


def _first(values: np.ndarray) -> str:
    return f"{values.flat[0]:.9g}"


# ---- values inside


def places(model: Any) -> dict[str, Any]:
    """Outputs of nodes by torch's names: a module's last operation for each call, and each activation's FakeQuantize.

    The front end names a node after the module it came from and numbers equal names, so calls are told apart.
    """
    outputs = {node.get_friendly_name(): node.output(0) for node in of_kind(model, "FakeQuantize")}
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
            outputs[ledger.node_name(path, index)] = nodes[name].output(0)
    return outputs


def _bias_follows(node: Any) -> bool:
    """Whether a constant is added to a product by another module: the layer's own bias may have been merged into it."""
    after = readers(node)
    if node.get_type_name() not in PRODUCTS or [reader.get_type_name() for reader in after] != ["Add"]:
        return False
    biased = "Constant" in [source.get_type_name() for source in sources(after[0])]
    return biased and _scope(node) != _scope(after[0])


def _scope(node: Any) -> str | None:
    match = SCOPE.match(node.get_friendly_name())
    return match[1] if match else None


def _number(name: str) -> int:
    match = NUMBER.search(name)
    return int(match[0][1:]) if match else 0
