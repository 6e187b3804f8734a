"""OpenVINO: LayerNorm over the channels of a map, without moving the map in memory.

In torch such a norm transposes the map to channels-last, normalises the last axis and transposes back. OpenVINO's
convolutions are channels-last anyway, but its MVN needs rows: each norm cost two copies and two reorders of the map,
four times the norm itself. Here means are taken over the channels' own axis:

    Transpose -> MVN -> ... -> Transpose        becomes        (x - mean) / sqrt(mean of squares + eps) -> ...
"""

import math
from typing import Any

import numpy as np

from edgemtl.targets.openvino.nodes import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    constant,
    holds,
    of_kind,
    readers,
    replace,
    sources,
)

ELEMENTWISE = ("Multiply", "Add", "FakeQuantize")  # that may stand between the norm and the second transpose


def over_channels(model: Any) -> int:
    """Rewrites every such norm of the model, in place; how many."""
    return sum(_rewrite(node) for node in of_kind(model, "MVN"))


def _rewrite(norm: Any) -> bool:
    from openvino import opset13 as op

    turned, axes = norm.input_value(0).get_node(), norm.input_value(1)
    how = norm.get_attributes()
    whole = how["normalize_variance"] and how["eps_mode"].lower() == "inside_sqrt"
    last = holds(axes, -1) or holds(axes, 3)
    if not (whole and last and _turns(turned, CHANNELS_LAST)):
        return False
    chain = _until_turned_back(norm)
    if chain is None:
        return False
    x, channel = turned.input_value(0), op.constant([1])
    centred = op.subtract(x, op.reduce_mean(x, channel, True))
    variance = op.reduce_mean(op.multiply(centred, centred), channel, True)
    epsilon = op.constant(np.float32(how["eps"]))
    normal = op.multiply(centred, op.power(op.add(variance, epsilon), op.constant(np.float32(-0.5))))
    normal.set_friendly_name(norm.get_friendly_name())
    replace(norm, normal.output(0))
    *between, back = chain
    for node in between:
        for port in node.inputs():
            numbers = constant(port.get_source_output())
            if numbers is not None and numbers.size > 1:
                port.replace_source_output(op.constant(numbers.reshape(1, -1, 1, 1)).output(0))
    replace(back, back.input_value(0))
    return True


def _until_turned_back(norm: Any) -> list[Any] | None:
    """The elementwise operations behind a norm and the transpose that ends them; None for any other operations."""
    chain, node = [], norm
    while True:
        after = readers(node)
        if len(after) != 1:
            return None
        [node] = after
        chain.append(node)
        if _turns(node, CHANNELS_FIRST):
            return chain
        before = sources(node)
        shapes = [list(s.get_output_shape(0)) for s in before if s.get_type_name() == "Constant"]
        along = all(math.prod(shape) == 1 or shape[-1:] == [math.prod(shape)] for shape in shapes)  # the channels
        if node.get_type_name() not in ELEMENTWISE or len(shapes) != len(before) - 1 or not along:
            return None


def _turns(node: Any, order: list[int]) -> bool:
    return node.get_type_name() == "Transpose" and holds(node.input_value(1), *order)
