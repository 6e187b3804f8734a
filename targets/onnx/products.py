"""1x1 convolutions of codes as products of whole numbers, times their scales, and as convolutions again: for cpu.py.

    codes                 DequantizeLinear  Conv                   a layer that stays float
    its weight's codes    Cast  Mul

    codes                 Transpose  MatMulInteger  Cast  Mul  Add  Transpose
    its weight's codes    Flatten  Transpose

The Mul has the product of both scales, which are powers of two: so they can be told apart again. Its name begins with
the weight's in the ledger; the rest is read from the graph alone. ONNX Runtime moves the transposes of pixels into its
own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgemtl.targets.onnx.editing import closed, opened

OF = "/of/"  # in a Mul's name, between the weight's and the layer's value
PRODUCT = ["Transpose", "MatMulInteger", "Cast", "Mul", "Add", "Transpose"]
TO_PIXELS, TO_MAPS = [0, 2, 3, 1], [0, 3, 1, 2]  # channels last, and back


def from_layers(model: Any) -> Any:
    """The model with products in place of the 1x1 convolutions of codes that stay float, of scales that allow it."""
    from onnx import helper

    made, constants, makers, _ = opened(model)
    fresh: dict[str, np.ndarray] = {}
    nodes: list[Any] = []
    turned: set[str] = set()  # weights, which several layers may have
    for node in made.graph.node:
        x, weight = (makers.get(value) for value in node.input[:2]) if node.op_type == "Conv" else (None, None)
        steps = constants.get(weight.input[1]) if weight is not None and weight.op_type == "Mul" else None
        if x is None or weight is None or steps is None or x.op_type != "DequantizeLinear" or not _pointwise(node):
            nodes.append(node)
            continue
        codes, [y] = makers[weight.input[0]].input[0], node.output
        scale = constants[x.input[1]] * steps.reshape(-1)
        if constants[x.input[1]].shape or len(scale) != len(constants[codes]) or (np.frexp(scale)[0] != 0.5).any():
            nodes.append(node)
            continue
        fresh[f"{y}/scales"] = scale
        flat, columns = f"{codes}/flat", f"{codes}/turned"
        if codes not in turned:
            nodes.append(helper.make_node("Flatten", [codes], [flat], flat))
            nodes.append(helper.make_node("Transpose", [flat], [columns], columns))
            turned.add(codes)
        pixels, sums, whole, steps, last = (f"{y}/{part}" for part in ("pixels", "sums", "whole", "steps", "scaled"))
        bias = list(node.input[2:])
        nodes += [
            helper.make_node("Transpose", [x.input[0]], [pixels], f"{node.name}/pixels", perm=TO_PIXELS),
            helper.make_node("MatMulInteger", [pixels, columns, x.input[2]], [sums], node.name),
            helper.make_node("Cast", [sums], [whole], f"{node.name}/whole", to=1),
            helper.make_node("Mul", [whole, f"{y}/scales"], [steps if bias else last], f"{weight.name}{OF}{y}"),
            *(helper.make_node("Add", [steps, value], [last], f"{node.name}/scaled") for value in bias),
            helper.make_node("Transpose", [last], [y], f"{node.name}/turned", perm=TO_MAPS),
        ]
    return closed(made, nodes, fresh)


def _pointwise(layer: Any) -> bool:
    """Whether a convolution is of each pixel by itself, of all channels."""
    usual = {"kernel_shape": {1}, "strides": {1}, "dilations": {1}, "group": {1}, "pads": {0}}
    return all(usual.get(a.name, set()) >= set(a.ints or [a.i]) for a in layer.attribute)


def to_layers(model: Any) -> Any:
    """The model with the convolutions again that `from_layers` took away. What is not quite such a product stays."""
    from onnx import helper

    made, constants, makers, readers = opened(model)
    fresh: dict[str, np.ndarray] = {}
    layers: dict[str, list[Any]] = {}  # by what each gives
    gone: set[str] = set()
    known: set[str] = set()  # weights, which several layers may have
    for product in made.graph.node:
        chain = _chain(product, makers, readers) if product.op_type == "MatMulInteger" else []
        codes = _codes(product, makers, constants) if chain else None
        x = _number(chain[0], product, readers) if chain else None
        if codes is None or x is None:
            continue
        scaled, bias, y = chain[3], chain[4].input[1:], chain[-1].output[0]
        scales, zeros, weight = f"{codes}/scales", f"{codes}/zeros", scaled.name.partition(OF)[0]
        fresh[scales] = constants[scaled.input[1]] / constants[x.input[1]]
        fresh[zeros] = np.zeros(len(constants[codes]), np.int8)
        steps = f"{weight}/steps"
        layers[y] = [helper.make_node("Conv", [x.output[0], steps, *bias], [y], product.name)]
        if weight not in known:
            layers[y].insert(0, helper.make_node("DequantizeLinear", [codes, scales, zeros], [steps], weight, axis=0))
            known.add(weight)
        gone.update(link.output[0] for link in chain[:-1])
    nodes: list[Any] = []
    for node in made.graph.node:
        if node.output[0] not in gone:
            nodes += layers.get(node.output[0], [node])
    return closed(made, nodes, fresh)


def _chain(product: Any, makers: dict[str, Any], readers: dict[str, list[Any]]) -> list[Any]:
    """The operations in place of a layer, in their order; none where they are others."""
    chain = [makers.get(product.input[0]), product]
    while chain[-1].op_type in PRODUCT[1:-1] and len(readers[chain[-1].output[0]]) == 1:
        chain += readers[chain[-1].output[0]]
    kinds = [link.op_type for link in chain if link is not None]
    if kinds not in (PRODUCT, [kind for kind in PRODUCT if kind != "Add"]):
        return []
    return chain if [_perm(chain[0]), _perm(chain[-1])] == [TO_PIXELS, TO_MAPS] else []


def _codes(product: Any, makers: dict[str, Any], constants: dict[str, np.ndarray]) -> str | None:
    """The constant whose codes a product multiplies; None where they come by another way."""
    turned = makers.get(product.input[1])
    flat = makers.get(turned.input[0]) if turned is not None and turned.op_type == "Transpose" else None
    return flat.input[0] if flat is not None and flat.op_type == "Flatten" and flat.input[0] in constants else None


def _number(pixels: Any, product: Any, readers: dict[str, list[Any]]) -> Any:
    """The DequantizeLinear of the codes that a product reads, of the same zero point; None where there is none."""
    zero = product.input[2:]
    same = [n for n in readers[pixels.input[0]] if n.op_type == "DequantizeLinear" and list(n.input[2:]) == list(zero)]
    return same[0] if same else None


def _perm(transpose: Any) -> list[int]:
    return [axis for a in transpose.attribute if a.name == "perm" for axis in a.ints]
