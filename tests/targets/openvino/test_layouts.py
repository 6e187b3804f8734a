"""OpenVINO: norms and attention over tasks without turning maps, which compute what the module does."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgemtl.models.demt import Attend, ExactAttend
from edgemtl.networks.layers import LayerNorm2d
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.targets.openvino import attention, norms

ov = pytest.importorskip("openvino")

pytestmark = pytest.mark.slow
SIZE = (5, 7)


def graph(module: nn.Module, *shapes: tuple[int, ...]) -> "ov.Model":
    example = tuple(torch.rand(shape) for shape in shapes)
    with torch.no_grad():
        model = ov.convert_model(module.eval(), example_input=example, input=[list(shape) for shape in shapes])
    return model


def run(model: "ov.Model", *inputs: Tensor) -> np.ndarray:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    (result,) = ov.Core().compile_model(model, "CPU", options)([x.numpy() for x in inputs]).values()
    return result


def kinds(model: "ov.Model") -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


class Normed(nn.Module):
    """A norm between convolutions, with or without a quantizer behind it."""

    def __init__(self, affine: bool, quantized: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 12, 1), nn.Conv2d(12, 4, 1)
        self.norm = LayerNorm2d(12, elementwise_affine=affine)
        for parameter in self.norm.parameters():
            nn.init.uniform_(parameter, 0.5, 2)
        self.quantizer = FakeQuantize(torch.tensor(0.125), None, "activation", "x") if quantized else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.quantizer(self.norm(self.first(x))))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_norms_over_channels(affine: bool, batch: int) -> None:
    torch.manual_seed(0)
    module, x = Normed(affine, False), 3 + 5 * torch.randn(batch, 6, *SIZE)
    model = graph(module, tuple(x.shape))
    assert norms.over_channels(model) == 1
    model.validate_nodes_and_infer_types()
    assert not {"MVN", "Transpose"} & set(kinds(model))
    wanted = module.double()(x.double()).detach().numpy()
    assert np.abs(run(model, x) - wanted).max() < 1e-5 * wanted.std()


def test_a_quantizer_behind_a_norm_stays() -> None:
    torch.manual_seed(0)
    module, x = Normed(True, True), torch.randn(1, 6, *SIZE)
    plain, model = (graph(module, tuple(x.shape)) for _ in range(2))
    assert norms.over_channels(model) == 1
    model.validate_nodes_and_infer_types()
    assert kinds(model).count("FakeQuantize") == kinds(plain).count("FakeQuantize") == 1
    np.testing.assert_allclose(run(model, x), run(plain, x), rtol=0, atol=1e-5)


def test_other_norms_stay() -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.layer_norm(x.permute(0, 2, 3, 1), (6,))  # not turned back

    model = graph(Other(), (1, 6, *SIZE))
    assert norms.over_channels(model) == 0 and "MVN" in kinds(model)


def inputs(width: int, keys: int, tasks: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(1, keys, *SIZE), torch.randn(tasks, keys, *SIZE), torch.randn(tasks, width, *SIZE)


@pytest.mark.parametrize(("width", "keys", "heads", "tasks"), [(12, 8, 4, 4), (8, 8, 2, 3), (6, 6, 1, 2)])
def test_attention_over_tasks(width: int, keys: int, heads: int, tasks: int) -> None:
    module, given = Attend(width, keys, heads), inputs(width, keys, tasks)
    model = graph(module, *(tuple(x.shape) for x in given))
    assert attention.channels_last(model) == 1 and "Convolution" not in kinds(model)
    wanted = module.double()(*(x.double() for x in given)).numpy()
    assert np.abs(run(model, *given) - wanted).max() < 1e-5 * wanted.std()


def test_exact_attention_keeps_every_bit() -> None:
    module = ExactAttend(Attend(12, 8, 4))
    for name, scale in (("query", 2.0**-4), ("logits", 2.0**-3), ("powers", 2.0**-7), ("shares", 2.0**-7)):
        getattr(module, name).quantizer = FakeQuantize(torch.tensor(scale), None, "activation", name)
    query, keys, values = inputs(12, 8, 4)
    keys, values = ((x * 16).round() / 16 for x in (keys, values))
    model = graph(module, *(tuple(x.shape) for x in (query, keys, values)))
    assert attention.channels_last(model) == 1 and "Convolution" not in kinds(model)
    np.testing.assert_array_equal(run(model, query, keys, values), module(query, keys, values).numpy())


@pytest.mark.parametrize("change", ["gather", "spread"])
def test_other_convolutions_stay(change: str) -> None:
    module, given = Attend(12, 8, 4), inputs(12, 8, 4)
    getattr(module, change)[0, 1] = 0.5  # no longer a head's own
    assert attention.channels_last(graph(module, *(tuple(x.shape) for x in given))) == 0
