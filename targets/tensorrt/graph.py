"""An ONNX graph for the lint and the float16 pass: which nodes compute and read a tensor, its type and shape."""

from collections import defaultdict
from functools import cache
from typing import Any, Callable, Iterable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper, shape_inference

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NO_NUMBERS = (AttributeProto.SPARSE_TENSOR, AttributeProto.STRING, AttributeProto.STRINGS)  # as a Constant's value
COORDINATES_PATH = "/coordinates/"  # in the names of the nodes of a module that turns offsets into a grid


class Graph:
    """The main graph of a model; constants are initializers and the outputs of Constant nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self.nodes = [node for node in model.graph.node if node.op_type != "Constant"]
        self.inputs = {i.name for i in model.graph.input} - {i.name for i in model.graph.initializer}
        self.outputs = [output.name for output in model.graph.output]
        self.maker: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            self.maker.update(dict.fromkeys(node.output, node))
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self._protos = {made.name: made for made in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self._protos[node.output[0]] = _proto(node)
        self.constant: Callable[[str], np.ndarray | None] = cache(self._constant)
        inferred = shape_inference.infer_shapes(model).graph
        self._values = {value.name: value for value in (*inferred.value_info, *inferred.input, *inferred.output)}

    def _constant(self, name: str) -> np.ndarray | None:
        known = name in self._protos and self._protos[name].data_type != TensorProto.UNDEFINED
        return numpy_helper.to_array(self._protos[name]) if known else None

    def constants(self) -> list[str]:
        """Their names."""
        return list(self._protos)

    def type(self, name: str) -> int:
        """TensorProto's element type, UNDEFINED where it is not known."""
        if name in self._protos:
            return self._protos[name].data_type
        return self._values[name].type.tensor_type.elem_type if name in self._values else TensorProto.UNDEFINED

    def shape(self, name: str) -> list[int | None] | None:
        """The lengths of the axes, None for one that is not fixed; None where nothing is known."""
        if name in self._protos:
            return list(self._protos[name].dims)
        kind = self._values[name].type.tensor_type if name in self._values else None
        if kind is None or not kind.HasField("shape"):
            return None
        return [axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim]

    def of(self, *kinds: str) -> Iterator[NodeProto]:
        """The nodes of these operators, ONNX's own."""
        return (node for node in self.nodes if node.op_type in kinds and node.domain in ("", "ai.onnx"))

    def before(self, name: str, *through: str) -> tuple[str, NodeProto | None]:
        """The tensor that `name` becomes when nodes of the kinds `through` are skipped upwards, and its maker."""
        maker = self.maker.get(name)
        while maker is not None and maker.op_type in through:
            name = maker.input[0]
            maker = self.maker.get(name)
        return name, maker

    def upstream(self, names: Iterable[str], stops: Callable[[NodeProto], bool]) -> list[NodeProto]:
        """The nodes that `names` are computed by, up to and without those that `stops` holds for; latest first."""
        makers: dict[str, NodeProto] = {}
        waiting = list(names)
        while waiting:
            maker = self.maker.get(waiting.pop())
            if maker is not None and maker.output[0] not in makers and not stops(maker):
                makers[maker.output[0]] = maker
                waiting += maker.input
        return list(makers.values())

    def coordinates(self) -> list[NodeProto]:
        """The nodes that compute the grids of GridSample, from the layers that compute the offsets on."""
        grids = [node.input[1] for node in self.of("GridSample")]
        return self.upstream(grids, lambda node: node.op_type in WEIGHTED and COORDINATES_PATH not in node.name)


def readable_name(node: NodeProto) -> str:
    """How a message calls a node."""
    return node.name or f"{node.op_type} -> {node.output[0]}"


def attributes(node: NodeProto) -> dict[str, Any]:
    """The values of a node's attributes; bytes become text."""
    values = {found.name: onnx.helper.get_attribute_value(found) for found in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of one attribute."""
    return attributes(node).get(name, default)


def _proto(node: NodeProto) -> TensorProto:
    value = node.attribute[0]
    if value.name == "value":
        return value.t
    if value.type in NO_NUMBERS:
        return TensorProto()
    array = np.array(onnx.helper.get_attribute_value(value))
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return numpy_helper.from_array(array, node.output[0])
