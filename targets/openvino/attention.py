"""OpenVINO: attention over the tasks at each pixel, in the layout of convolutions.

The network sums a head's products by a 1x1 convolution with constants, and copies a head's weights to its channels by
another, so that no map is reshaped (see edgemtl.models.demt.Attend). OpenVINO multiplies by all of these constants,
most of which are 0, and adds the tasks up in a further pass over memory. But its maps are channels-last, where a head's
channels lie side by side, so here

    query, keys (1 or T, K, h, w) -> (1 or T, h * w, heads, K / heads): products, and their sum over the last axis
    values (T, V, h, w) -> (T, h * w, heads, V / heads): times weights (T, h * w, heads, 1), and the tasks' sum

What is between, softmax or its exact form, keeps its shapes.
"""

from typing import Any

import numpy as np

from edgemtl.targets.openvino.nodes import constant, holds, of_kind, supersede

# Operations between logits and weights that concern no axis but the first.
BETWEEN = ("FakeQuantize", "Softmax", "ReduceMax", "ReduceSum", "Subtract", "Add", "Multiply", "Divide", "Exp")


def channels_last(model: Any) -> int:
    """Rewrites every such attention of the model, in place; how many."""
    rewritten = sum(_rewrite(node) for node in of_kind(model, "ReduceSum"))
    model.validate_nodes_and_infer_types()
    return rewritten


def _rewrite(total: Any) -> bool:
    """The attention whose answers a sum over the tasks gives."""
    from openvino import opset13 as op

    products = total.input_value(0).get_node()
    if products.get_type_name() != "Multiply" or not _over_tasks(total):
        return False
    for one, other in ((0, 1), (1, 0)):
        spread, values = products.input_value(one).get_node(), products.input_value(other)
        heads = _heads(spread, copies=True)
        if heads is not None:
            break
    else:
        return False
    gather = _above(spread.input_value(0))
    if gather is None or gather.input_value(0).get_node().get_type_name() != "Multiply":
        return False
    before = gather.input_value(0).get_node()
    scale = _heads(gather, copies=False)
    tasks, _, height, width = values.get_shape()
    if scale is None or before.get_output_shape(0)[0] != tasks:
        return False
    count = spread.get_input_shape(1)[1]

    def rows(value: Any) -> Any:
        """(N, C, h, w) as (N, h * w, heads, C / heads), which moves nothing in a channels-last map."""
        number, channels = value.get_shape()[:2]
        turned = op.transpose(value, op.constant([0, 2, 3, 1]))
        return op.reshape(turned, op.constant([number, height * width, count, channels // count]), False)

    logits = op.reduce_sum(
        op.multiply(rows(before.input_value(0)), rows(before.input_value(1))),
        op.constant([3]),
        True,
    )
    if scale != 1:
        logits = op.multiply(logits, op.constant(np.float32(scale)))
    places = op.reshape(logits, op.constant([tasks, height, width, count]), False)
    supersede(gather, op.transpose(places, op.constant([0, 3, 1, 2])))
    weights = rows(spread.input_value(0))
    answer = None
    for weight, part in zip(*(op.split(x, op.constant(0), tasks).outputs() for x in (weights, rows(values)))):
        weighed = op.multiply(weight, part)
        answer = weighed if answer is None else op.add(answer, weighed)
    flat = op.reshape(answer, op.constant([1, height, width, values.get_shape()[1]]), False)
    supersede(total, op.transpose(flat, op.constant([0, 3, 1, 2])))
    return True


def _heads(node: Any, copies: bool) -> float | None:
    """The factor of a 1x1 convolution that sums each head's channels, or copies each head to them; else None."""
    matrix = constant(node.input_value(1)) if node.get_type_name() == "Convolution" else None
    if matrix is None:
        return None
    if list(matrix.shape[2:]) != [1, 1] or node.get_output_shape(0)[2:] != node.get_input_shape(0)[2:]:
        return None
    matrix = matrix[:, :, 0, 0] if copies else matrix[:, :, 0, 0].T  # (channels, heads)
    channels, heads = matrix.shape
    if channels % heads:
        return None
    factor = float(matrix[0, 0])
    same = np.array_equal(matrix, np.repeat(np.eye(heads), channels // heads, 0) * matrix[0, 0])
    return factor if same and factor and (factor == 1 or not copies) else None


def _over_tasks(node: Any) -> bool:
    """Whether a reduction goes over the first axis, and keeps it."""
    return holds(node.input_value(1), 0) and bool(node.get_attributes()["keep_dims"])


def _above(value: Any) -> Any:
    """The one convolution that a value is made of by operations in BETWEEN with single numbers; None otherwise."""
    node = value.get_node()
    if node.get_type_name() == "Convolution":
        return node
    if node.get_type_name() not in BETWEEN or (node.get_type_name() == "Softmax" and node.get_attributes()["axis"]):
        return None
    convolutions = []
    for source in node.input_values():
        numbers = constant(source)
        if numbers is None:
            convolutions.append(_above(source))
        elif not (_over_tasks(node) if node.get_type_name().startswith("Reduce") else numbers.size == 1):
            return None
    first = convolutions[0]
    return first if all(one is not None and one == first for one in convolutions) else None
