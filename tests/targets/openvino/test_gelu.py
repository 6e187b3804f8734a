"""GELU of codes as a polynomial: the same codes for every argument, or OpenVINO's own."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from edgemtl.networks.exact import Table
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.targets.openvino import gelu

ov = pytest.importorskip("openvino")

CODES = np.arange(-128, 128, dtype=np.float32)


def exact(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.array([math.erf(float(value) / math.sqrt(2)) for value in x]))


def quantizer(x: Any, step: float) -> Any:
    from openvino import opset13 as op

    low, high = (op.constant(np.full((1, 1, 1, 1), code * step, np.float32)) for code in (-128, 127))
    return op.fake_quantize(x, low, high, low, high, 256)


def network(taken: float, given: float, shift: float = 0.0, mode: str = "erf", quantized: bool = True) -> Any:
    """A map (1, 1, 16, 16), through GELU between two quantizers of these steps."""
    from openvino import opset13 as op

    x = op.parameter([1, 1, 16, 16], np.float32)
    y = op.gelu(quantizer(x, taken) if quantized else x, mode)
    y = op.add(y, op.constant(np.full((1, 1, 1, 1), shift, np.float32))) if shift else y
    return ov.Model([quantizer(y, given)], [x])


def lift(taken: float, given: float) -> float:
    """What the exact form adds to its GELU's results, to keep them off ties."""
    table = Table(F.gelu)
    for point, step in ((table.taken, taken), (table.given, given)):
        point.quantizer = FakeQuantize(torch.tensor(step), None, "activation", "")
    table.settle()
    return float(table.lift)


def kinds(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def run(model: Any, x: np.ndarray) -> np.ndarray:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(x.reshape(1, 1, 16, 16))[0].ravel()


@given(st.floats(0.004, 0.2), st.floats(0.004, 0.2), st.floats(-0.4, 0.4))
def test_a_polynomial_gives_the_codes_of_gelu(taken: float, step: float, part: float) -> None:
    values, shift = CODES * np.float32(taken), part * step
    found = gelu.polynomial(values, step, shift)
    assume(found is not None)
    assert found is not None
    wanted = (exact(values.astype(np.float64)) + shift) / step
    fused = sum(f * np.minimum(np.abs(values), found.end) ** np.float64(k) for k, f in enumerate(found.factors, 1))
    for got in (found.gelu(values), np.maximum(values, 0) - fused):  # in float32 and, nearly, without rounding
        np.testing.assert_array_equal(np.round((got + shift) / step), np.round(wanted))


@pytest.mark.parametrize("given", [2.0**-k for k in range(1, 8)])
@pytest.mark.parametrize("taken", [2.0**-k for k in range(3, 8)])
def test_there_is_one_for_the_steps_of_the_exact_form(taken: float, given: float) -> None:
    found = gelu.polynomial(CODES * np.float32(taken), given, lift(taken, given))
    assert found is not None and len(found.factors) <= 7


def test_near_a_tie_there_is_none() -> None:
    step = 2.0**-6
    at = float(exact(np.array([np.float32(40 * step)]))[0])
    shift = (math.floor(at / step) + 0.5) * step - at  # moves the result for code 40 to the middle between two codes
    assert gelu.polynomial(CODES * np.float32(step), step, shift) is None


def test_it_takes_the_place_of_gelu_between_quantizers() -> None:
    step = 2.0**-6
    plain, other = (network(step, step, lift(step, step)) for _ in range(2))
    assert gelu.by_polynomials(other) == 1 and "Gelu" not in kinds(other)
    other.validate_nodes_and_infer_types()
    wanted = run(plain, CODES * step)
    np.testing.assert_array_equal(run(other, CODES * step), wanted)
    assert len(np.unique(wanted)) > 100


@pytest.mark.parametrize("options", [{"mode": "tanh"}, {"quantized": False}])
def test_any_other_gelu_stays(options: dict[str, Any]) -> None:
    model = network(2.0**-6, 2.0**-6, **options)
    assert gelu.by_polynomials(model) == 0 and "Gelu" in kinds(model)
