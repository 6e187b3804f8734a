"""Resizing by matrices: torch's numbers, whatever the order in memory."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.targets.openvino import resizing

ov = pytest.importorskip("openvino")


@given(st.integers(1, 12), st.integers(1, 24))
def test_a_matrix_of_bilinear_resizing_is_that_of_torch(taken: int, made: int) -> None:
    line = np.random.default_rng(0).standard_normal(taken).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(line)[None, None, :, None], (made, 1), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resizing._bilinear(taken, made) @ line, wanted.flatten().numpy(), atol=1e-5)


def enlarging(channels: int, how: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """A map (1, channels, 5, 7), its rows or columns multiplied by a matrix of whole numbers; the map, the result."""
    from openvino import opset13 as op

    rng = np.random.default_rng(channels)
    x = rng.integers(-128, 128, (1, channels, 5, 7)).astype(np.float32)
    rows, columns = rng.integers(0, 5, (9, 5)).astype(np.float32), rng.integers(0, 5, (7, 11)).astype(np.float32)
    taken = op.parameter(list(x.shape), np.float32)
    if how == "rows":
        made, wanted = op.matmul(op.constant(rows), taken, False, False), rows @ x
    elif how == "columns":
        made, wanted = op.matmul(taken, op.constant(columns), False, False), x @ columns
    else:
        made, wanted = op.matmul(taken, op.constant(columns.T.copy()), False, True), x @ columns
    return ov.Model([made], [taken]), x, wanted


@pytest.mark.parametrize("how", ["rows", "columns", "turned columns"])
@pytest.mark.parametrize("channels", [3, 32])
def test_wide_maps_are_multiplied_channels_last(channels: int, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, wanted = enlarging(channels, how)
    assert resizing.wide_maps_channels_last(model) == 0  # a small one
    monkeypatch.setattr(resizing, "LARGE", 1)
    assert resizing.wide_maps_channels_last(model) == (channels == 32)
    model.validate_nodes_and_infer_types()
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert kinds.count("MatMul") == 1 and kinds.count("Transpose") == 2 * (channels == 32)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_array_equal(compiled(x)[0], wanted)


def test_a_product_of_two_maps_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from openvino import opset13 as op

    monkeypatch.setattr(resizing, "LARGE", 1)
    one, other = (op.parameter([1, 32, 5, 5], np.float32) for _ in range(2))
    model = ov.Model([op.matmul(one, other, False, False)], [one, other])
    assert resizing.wide_maps_channels_last(model) == 0
