"""A model whose tensors have the type float16, by which TensorRT 11 knows its precision (10.x: strongly typed).

Four parts stay float32. The operations from the camera to the first layer: a mean of 123.675 is not a float16 number.
The sampling coordinates and GridSample: TensorRT wants both its inputs of one type, and in float16 a position far from
the middle is off by a sixteenth of a pixel in a map of 128. Sums of squares and what follows them. The outputs.

With Q/DQ the file needs opset 19, the first whose QuantizeLinear takes float16. A Cast between DequantizeLinear and its
layer would keep TensorRT from fusing the two into an int8 kernel.
"""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgemtl.ground.errors import CheckFailed
from edgemtl.targets.tensorrt.graph import WEIGHTED, Graph, readable_name

OPSET, IR = 19, 9  # with Q/DQ
LARGEST_FLOAT16 = 65504.0
FLOAT32 = {"Exp", "Log", "Pow", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceSumSquare"}
# Their other float inputs have a type of their own.
FIRST_ALONE = {"Resize"}


def typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 twin of a float32 model with or without Q/DQ; inputs and outputs keep their types.

    CheckFailed for a constant that float16 cannot hold, a scale that it would round (both named), or control flow.
    """
    model = _opset19(model) if any(n.op_type == "QuantizeLinear" for n in model.graph.node) else _copy(model)
    _constants_as_initializers(model)
    graph = Graph(model)
    float32 = _float32(graph)
    nodes: list[NodeProto] = []
    casts: dict[tuple[str, int], str] = {}
    initializers = {proto.name: proto for proto in model.graph.initializer}
    constants: dict[tuple[str, int], str] = {}
    kept: dict[str, TensorProto] = {}
    types = {name: graph.type(name) for name in graph.inputs}
    scales = {node.input[1] for node in graph.of("QuantizeLinear", "DequantizeLinear")}

    def constant(name: str, kind: int) -> str:
        """The name under which a float32 constant is kept in the type wanted."""
        if (name, kind) not in constants:
            other = f"{name}/float32" if (name, TensorProto.FLOAT16) in constants else f"{name}/float16"
            new = name if name not in kept else other
            value = numpy_helper.to_array(initializers[name])
            if name in scales and kind == TensorProto.FLOAT16:
                _exact(value, name)
            kept[new] = numpy_helper.from_array(value if kind == TensorProto.FLOAT else _half(value, name), new)
            constants[name, kind] = new
        return constants[name, kind]

    def cast(name: str, wanted: int) -> str:
        if (name, wanted) not in casts:
            casts[name, wanted] = new = f"{name}/{'float16' if wanted == TensorProto.FLOAT16 else 'float32'}"
            nodes.append(helper.make_node("Cast", [name], [new], f"{new}/Cast", to=wanted))
        return casts[name, wanted]

    for node in graph.nodes:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise CheckFailed(f"{readable_name(node)}: a float16 twin of a model with control flow is not made")
        wanted = TensorProto.FLOAT if node.output[0] in float32 else TensorProto.FLOAT16
        new = NodeProto()
        new.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in initializers and initializers[name].data_type != TensorProto.FLOAT:
                kept[name] = initializers[name]
            elif node.op_type in FIRST_ALONE and index:
                if name:
                    new.input[index] = constant(name, TensorProto.FLOAT)
            elif name in initializers:
                new.input[index] = constant(name, wanted)
            elif types.get(name) in (TensorProto.FLOAT, TensorProto.FLOAT16) and node.op_type != "Cast":
                new.input[index] = name if types[name] == wanted else cast(name, wanted)
        for a in new.attribute:
            if node.op_type == "Cast" and a.name == "to" and a.i == TensorProto.FLOAT:
                a.i = wanted
        nodes.append(new)
        for name in node.output:
            types[name] = wanted if graph.type(name) == TensorProto.FLOAT else graph.type(name)
    for output in model.graph.output:
        if output.type.tensor_type.elem_type == TensorProto.FLOAT and types[output.name] == TensorProto.FLOAT16:
            _end_in_float32(nodes, output.name)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept.values())
    onnx.checker.check_model(model, full_check=True)
    return model


def _float32(graph: Graph) -> set[str]:
    """The first outputs of the nodes that stay float32."""
    camera = set(graph.inputs)  # what is computed from it alone, before the first layer or quantizer
    for node in graph.nodes:
        alone = all(name in camera or graph.constant(name) is not None for name in node.input if name)
        if alone and camera.intersection(node.input) and node.op_type not in (*WEIGHTED, "QuantizeLinear"):
            camera.add(node.output[0])
    # From the last layer to the outputs, without what is large there: maps that are resized, sums, classes.
    end = (*WEIGHTED, "Add", "ArgMax", "GridSample", "Resize")
    last = graph.upstream(graph.outputs, lambda node: node.op_type in end)
    nodes = [*graph.coordinates(), *graph.of("GridSample", *FLOAT32), *last]
    return camera | {node.output[0] for node in nodes}


def _half(value: np.ndarray, name: str) -> np.ndarray:
    if (np.abs(value[np.isfinite(value)]) > LARGEST_FLOAT16).any():
        raise CheckFailed(
            f"{name}: {np.abs(value).max():g} is beyond float16, whose largest number is {LARGEST_FLOAT16:g}"
        )
    return value.astype(np.float16)


def _exact(scale: np.ndarray, name: str) -> None:
    rounded = scale[_half(scale, name).astype(np.float32) != scale]
    if rounded.size:
        raise CheckFailed(f"{name}: {rounded.flat[0]:g} is no float16 number, and a rounded scale is another model")


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _opset19(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph at opset 19: of the operators in use only reductions and Split changed since 17."""
    model = _copy(model)
    for node in model.graph.node:
        if node.op_type in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd",
                            "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"):  # fmt: skip
            for index, a in enumerate(node.attribute):
                if a.name == "axes":
                    name = f"{node.output[0]}/axes"
                    model.graph.initializer.append(numpy_helper.from_array(np.array(a.ints, np.int64), name))
                    node.input.append(name)
                    del node.attribute[index]
                    break
        elif node.op_type == "Split" and len(node.input) == 1:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    [opset] = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
    assert opset.version == 17
    opset.version, model.ir_version = OPSET, IR
    return model


def _constants_as_initializers(model: onnx.ModelProto) -> None:
    graph = Graph(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    for name in graph.constants():
        value = graph.constant(name)
        if name not in stored and value is not None:
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _end_in_float32(nodes: list[NodeProto], output: str) -> None:
    """Puts a Cast to float32 at the end, under the output's name."""
    inner = f"{output}/float16"
    for node in nodes:
        node.output[:] = [inner if name == output else name for name in node.output]
        node.input[:] = [inner if name == output else name for name in node.input]
    nodes.append(helper.make_node("Cast", [inner], [output], f"{output}/Cast", to=TensorProto.FLOAT))
