"""OpenVINO's other forms of the deformable operator: the graphs that the passes make, run by OpenVINO."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from edgemtl.models.demt import Deform, ExactSampler, Sampler
from edgemtl.ops import deform_conv2d
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.targets.openvino import deformable

ov = pytest.importorskip("openvino")

pytestmark = pytest.mark.slow
SIZE = (9, 14)


def deform(width=16, groups=8) -> Deform:
    torch.manual_seed(0)
    made = Deform(width, groups, 1.0).eval().requires_grad_(False)
    nn.init.normal_(made.offsets.point.weight, std=0.1)  # some samples leave the map
    return made


def graph(module: nn.Module, width=16, size=SIZE):
    shape = [1, width, *size]
    return ov.convert_model(module.eval(), example_input=torch.zeros(shape), input=shape)


def run(model, x: torch.Tensor) -> np.ndarray:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    (result,) = ov.Core().compile_model(model, "CPU", options)([x.numpy()]).values()
    return result


def exactly(trained: Deform, x: torch.Tensor) -> np.ndarray:
    """The trained module's output in float64, offsets included."""
    wide, x = trained.double(), x.double()
    offset = wide.offsets.mix(wide.offsets.point(x) + wide.offsets.coordinates(x))
    return deform_conv2d(x, offset, wide.weight, wide.bias).numpy()


def kinds(model) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(deformable, "PART", 2 * SIZE[0] * SIZE[1] * 8)  # two groups


@pytest.mark.parametrize("groups, parts", [(8, 4), (16, 8), (4, 2), (2, 0)])
def test_parts_compute_the_same_bits(groups, parts, small_parts):
    plain, other = (graph(Sampler(deform(groups=groups), SIZE)) for _ in range(2))
    (operator,) = deformable.operators(other)
    assert deformable.split(operator) == bool(parts)
    other.validate_nodes_and_infer_types()
    assert kinds(other).count("GridSample") == (parts or 1)
    x = torch.randn(1, 16, *SIZE, generator=torch.manual_seed(1))
    np.testing.assert_allclose(run(other, x), run(plain, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("width, groups", [(16, 8), (16, 16), (8, 2)])
def test_native_equals_torch(width, groups):
    trained = deform(width, groups)
    model = graph(Sampler(trained, SIZE), width)
    (operator,) = deformable.operators(model)
    assert (operator.groups, operator.channels) == (groups, width)
    assert deformable.sample_natively(operator)
    model.validate_nodes_and_infer_types()
    assert "GridSample" not in kinds(model) and kinds(model).count("DeformableConvolution") == 1
    x = torch.randn(1, width, *SIZE, generator=torch.manual_seed(1))
    wanted = exactly(trained, x)
    assert np.abs(run(model, x) - wanted).max() <= 1e-5 * np.abs(wanted).max()


class Other(nn.Module):
    """A GridSample that is no deformable operator of ours."""

    def __init__(self, sampler: Sampler, kind: str):
        super().__init__()
        self.sampler, self.kind = sampler, kind

    def forward(self, x):
        if self.kind == "another base":
            self.sampler.coordinates.base.add_(0.01)
        grid = self.sampler.coordinates(self.sampler.point(x))
        if self.kind == "grid is changed":
            grid = grid * 0.5
        return nn.functional.grid_sample(x.reshape(grid.shape[0], -1, *SIZE), grid, align_corners=False)


@pytest.mark.parametrize("kind", ["another base", "grid is changed"])
def test_other_samplings_are_left_alone(kind):
    model = graph(Other(Sampler(deform(), SIZE), kind))
    assert not deformable.operators(model)


def test_what_else_reads_the_samples_keeps_a_native_form_away():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.sampler = Sampler(deform(), SIZE)

        def forward(self, x):
            grid = self.sampler.coordinates(self.sampler.point(x))
            split = x.reshape(grid.shape[0], -1, *SIZE)
            read = nn.functional.grid_sample(split, grid, align_corners=False).reshape(x.shape)
            return self.sampler.project(read) + read

    model = graph(Both())
    (operator,) = deformable.operators(model)
    assert not deformable.sample_natively(operator)
    assert "GridSample" in kinds(model)


@pytest.mark.parametrize("form", ["grid-sample", "split", "native"])
def test_the_evidence_decides(form, monkeypatch, tmp_path, small_parts):
    slow = {"grid-sample": 2.0, "split": 2.0, "native": 2.0}
    near = {
        "target": "openvino",
        "channels": 16,
        "height": 9,
        "width": 14,
        "groups": 8,
        "milliseconds": slow | {form: 1.0},
    }
    far = near | {"channels": 256, "groups": 256, "milliseconds": {"grid-sample": 9.0, "split": 9.0, "native": 0.1}}
    foreign = near | {"target": "another", "milliseconds": {"grid-sample": 9.0, "native": 0.1}}
    monkeypatch.setattr(deformable, "TIMES", tmp_path / "times.json")
    deformable.TIMES.write_text(json.dumps({"rows": [far, foreign, near]}))
    model = graph(Sampler(deform(), SIZE))
    assert deformable.lower(model) == {form: 1}
    model.validate_nodes_and_infer_types()
    assert kinds(model).count("GridSample") == {"grid-sample": 1, "split": 4, "native": 0}[form]


def test_a_small_gain_is_no_reason(monkeypatch, tmp_path):
    row = {"target": "openvino", "channels": 8, "height": 9, "width": 9, "groups": 8}
    monkeypatch.setattr(deformable, "TIMES", tmp_path / "times.json")
    deformable.TIMES.write_text(json.dumps({"rows": [row | {"milliseconds": {"grid-sample": 1.0, "native": 0.95}}]}))
    assert deformable.fastest("openvino", 8, 9, 9, 8) == "grid-sample"
    assert deformable.fastest("onnx", 8, 9, 9, 8) == "grid-sample"  # nothing was measured


@pytest.mark.parametrize("groups, parts", [(8, 4), (2, 0)])
def test_parts_of_codes_compute_the_same_bits(groups, parts, small_parts):
    sampler = ExactSampler(Sampler(deform(groups=groups), SIZE))
    points = {"data": 2.0**-4, "coordinates.learned": 2.0**-5, "coordinates.offset": 2.0**-3, "read": 2.0**-4}
    for point, scale in points.items():
        sampler.get_submodule(point).quantizer = FakeQuantize(torch.tensor(scale), None, "activation", point)
    sampler.settle()
    plain, other = (graph(sampler) for _ in range(2))
    (operator,) = deformable.of_codes(other)
    assert not deformable.operators(other) and deformable.split_codes(operator) == bool(parts)
    other.validate_nodes_and_infer_types()
    assert kinds(other).count("GridSample") == (parts or 1)
    x = torch.randn(1, 16, *SIZE, generator=torch.manual_seed(1))
    np.testing.assert_array_equal(run(other, x), run(plain, x))
