"""OpenVINO: resizing as its CPU kernels do it fast: by matrices, in the order in which maps are in memory."""

import math
from typing import Any

import numpy as np

from edgemtl.targets.openvino.nodes import CHANNELS_FIRST, CHANNELS_LAST, constant, of_kind, replace, supersede

NARROW, WIDE = 4, 32  # channels
LARGE = 1 << 19  # values of a resized map: copies of smaller ones stay in the cache, and cost little


def to_one_pixel_as_torch(model: Any) -> None:
    """Resizes with half-pixel centres at any size, as torch does.

    The front end writes what older versions of torch did: a map of one row or column took the first source pixel.
    """
    for node in of_kind(model, "Interpolate"):
        if node.get_attributes()["coordinate_transformation_mode"] == "pytorch_half_pixel":
            node.set_attribute("coordinate_transformation_mode", "half_pixel")


def narrow_maps_by_matrices(model: Any) -> None:
    """Resizes maps with few channels bilinearly by two matrix products, which compute the same.

    On channels-last maps OpenVINO's Interpolate works channel by channel: 3 channels take half as long as 40.
    """
    from openvino import opset13 as op

    for node in of_kind(model, "Interpolate"):
        shape, enlarged = node.input_value(0).get_shape(), node.output(0).get_shape()
        how = node.get_attributes()
        centred = how["coordinate_transformation_mode"] in ("half_pixel", "pytorch_half_pixel")
        bilinear = how["mode"] in ("linear", "linear_onnx") and centred and not how["antialias"]
        if not (bilinear and len(shape) == 4 and shape[1] <= NARROW and list(enlarged)[:2] == list(shape)[:2]):
            continue
        rows, columns = (op.constant(_bilinear(shape[axis], enlarged[axis])) for axis in (2, 3))
        wide = op.matmul(node.input_value(0), columns, False, True)
        high = op.matmul(rows, wide, False, False)
        high.set_friendly_name(node.get_friendly_name())
        high.output(0).set_names(node.output(0).get_names())  # a task's, where this is its map
        replace(node, high.output(0))


def wide_maps_channels_last(model: Any) -> int:
    """Multiplies large wide maps by matrices for rows or columns in place; how many such products.

    Layers have channels last in memory. A product over rows or columns with channels first copies the map into that
    order and back, which takes longer than the product.
    """
    large = [node for node in of_kind(model, "MatMul") if math.prod(node.get_output_shape(0)) >= LARGE]
    return sum(_over_rows(node) or _over_columns(node) for node in large)


def _over_rows(node: Any) -> bool:
    """A constant (h', h) times a map (1, C, h, w)."""
    from openvino import opset13 as op

    rows, shape, how = constant(node.input_value(0)), list(node.get_input_shape(1)), node.get_attributes()
    if rows is None or rows.ndim != 2 or not _wide(shape) or how["transpose_a"] or how["transpose_b"]:
        return False
    _, channels, height, width = shape
    turned = op.transpose(node.input_value(1), op.constant(CHANNELS_LAST))
    product = op.matmul(
        op.constant(rows), op.reshape(turned, op.constant([height, width * channels]), False), False, False
    )
    resized = op.reshape(product, op.constant([1, len(rows), width, channels]), False)
    supersede(node, op.transpose(resized, op.constant(CHANNELS_FIRST)))
    return True


def _over_columns(node: Any) -> bool:
    """A map (1, C, h, w) times a constant (w, w'), or (w', w) that is transposed."""
    from openvino import opset13 as op

    columns, shape, how = constant(node.input_value(1)), list(node.get_input_shape(0)), node.get_attributes()
    if columns is None or columns.ndim != 2 or not _wide(shape) or how["transpose_a"]:
        return False
    matrix = columns if how["transpose_b"] else columns.T
    turned = op.transpose(node.input_value(0), op.constant(CHANNELS_LAST))
    product = op.matmul(op.constant(np.ascontiguousarray(matrix)), turned, False, False)
    supersede(node, op.transpose(product, op.constant(CHANNELS_FIRST)))
    return True


def _wide(shape: list[int]) -> bool:
    return len(shape) == 4 and shape[0] == 1 and shape[1] >= WIDE


def _bilinear(source: int, target: int) -> np.ndarray:
    """The (target, source) matrix of bilinear resizing along one axis with half-pixel centres."""
    at = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
    low = np.minimum(at.astype(int), source - 2) if source > 1 else np.zeros(target, int)
    matrix = np.zeros((target, source), np.float32)
    matrix[np.arange(target), low] = 1 - (at - low)
    if source > 1:
        matrix[np.arange(target), low + 1] = at - low
    return matrix
