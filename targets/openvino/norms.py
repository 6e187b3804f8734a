"""OpenVINO: LayerNorm over the channels of a map, where the map stays as it lies in memory.

In torch such a norm turns the map channels-last, normalises the last axis and turns it back. OpenVINO's convolutions
are channels-last as it is, but what it normalises must lie row by row: each norm cost two copies of the map and two
reorders, four times the norm itself. Here means are taken over the channels' own axis:

    Transpose -> MVN -> ... -> Transpose        becomes        (x - mean) / sqrt(mean of squares + eps) -> ...
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgemtl.targets.openvino.session import nodes

CHANNELS_LAST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
ELEMENTWISE = ("Multiply", "Add", "FakeQuantize")  # that may stand between the norm and the second transpose


def over_channels(model: Any) -> int:
    """Rewrites every such norm of the model, in place; how many."""
    return sum(_rewrite(node) for node in nodes(model, "MVN"))


def _rewrite(norm: Any) -> bool:
    from openvino import opset13 as op

    turned, axes = norm.input_value(0).get_node(), norm.input_value(1).get_node()
    how = norm.get_attributes()
    whole = how["normalize_variance"] and how["eps_mode"].lower() == "inside_sqrt"
    last = axes.get_type_name() == "Constant" and axes.get_data().ravel().tolist() in ([-1], [3])
    if not (whole and last and _turns(turned, CHANNELS_LAST)):
        return False
    chain = _until_turned_back(norm)
    if chain is None:
        return False
    x, channel = turned.input_value(0), op.constant([1])
    centred = op.subtract(x, op.reduce_mean(x, channel, True))
    variance = op.reduce_mean(op.multiply(centred, centred), channel, True)
    epsilon = op.constant(np.float32(how["eps"]))
    made = op.multiply(centred, op.power(op.add(variance, epsilon), op.constant(np.float32(-0.5))))
    made.set_friendly_name(norm.get_friendly_name())
    _replace(norm, made.output(0))
    *between, back = chain
    for node in between:
        for port in node.inputs():
            constant = port.get_source_output().get_node()
            if constant.get_type_name() == "Constant" and constant.get_data().size > 1:
                port.replace_source_output(op.constant(constant.get_data().reshape(1, -1, 1, 1)).output(0))
    _replace(back, back.input_value(0))
    return True


def _until_turned_back(norm: Any) -> list[Any] | None:
    """The operations on each value behind a norm, and the transpose that ends them; None where something else comes."""
    chain, node = [], norm
    while True:
        readers = [port.get_node() for port in node.output(0).get_target_inputs()]
        if len(readers) != 1:
            return None
        [node] = readers
        chain.append(node)
        if _turns(node, CHANNELS_FIRST):
            return chain
        sources = [value.get_node() for value in node.input_values()]
        shapes = [list(s.get_output_shape(0)) for s in sources if s.get_type_name() == "Constant"]
        along = all(math.prod(shape) == 1 or shape[-1:] == [math.prod(shape)] for shape in shapes)  # the channels
        if node.get_type_name() not in ELEMENTWISE or len(shapes) != len(sources) - 1 or not along:
            return None


def _turns(node: Any, order: list[int]) -> bool:
    if node.get_type_name() != "Transpose":
        return False
    given = node.input_value(1).get_node()
    return given.get_type_name() == "Constant" and given.get_data().tolist() == order


def _replace(old: Any, new: Any) -> None:
    for reader in old.output(0).get_target_inputs():
        reader.replace_source_output(new)
