"""What modules say they are for, whatever attributes hold them."""

import pytest
import torch
from torch import Tensor, nn

from edgemtl import models
from edgemtl.ground import registry
from edgemtl.networks import purposes
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.prepare import prepare
from edgemtl.quantization import exact, quantizers
from edgemtl.quantization.calibrate import float_operations
from edgemtl.records import recipe

NAMES = {"coordinates": purposes.COORDINATES, "attend": purposes.ATTENTION, "backbone": purposes.BACKBONE}


class Place(nn.Module):
    purpose = purposes.COORDINATES

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 1)

    def forward(self, offset: Tensor) -> Tensor:
        return self.mix(offset).tanh().permute(0, 2, 3, 1)


class Weigh(nn.Module):
    purpose = purposes.ATTENTION

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sigmoid()


class Network(nn.Module):
    """Samples and weighs, and has an ordinary layer named as if it did."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.offset, self.attend = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 4, 1)
        self.parts = nn.ModuleList([Place(), Weigh()])  # called by what is not their parent

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.attend(self.stem(image))
        x = torch.nn.functional.grid_sample(x, self.parts[0](self.offset(x)), align_corners=False)
        return {"depth": self.parts[1](x)}


def test_what_stays_float_is_known_by_what_a_module_says_it_is_for() -> None:
    found = float_operations(Network().eval(), torch.rand(1, 3, 8, 8))
    kinds = sorted(name.split("/")[-2] for name in found)
    assert kinds == ["conv2d", "conv2d", "grid_sample", "permute", "sigmoid", "tanh"]
    assert not [name for name in found if name.startswith(("stem", "offset", "attend"))]


def test_a_quantizer_inside_is_found_whatever_the_module_is_called() -> None:
    network, x = Network().eval(), torch.rand(1, 3, 8, 8)
    for slot in ("post_hooks.mix/conv2d/0__0.0", "post_hooks.stem/conv2d/0__0.0"):
        quantizer = quantizers.FakeQuantize(torch.tensor(0.5), None, "activation", slot)
        quantizers.insert(network, slot, quantizer)
    found = quantizers.on_coordinates(quantizers.export(network, x), network)
    assert len(found) == 1 and "mix/conv2d/0" in found[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", registry.names("models"))
def test_every_model_says_what_its_modules_are_for(method: str) -> None:
    """In training, in deployment form and in exact form; ONNX files know coordinates by the attribute's name alone."""
    for name in [name for name in registry.names("recipes") if name.endswith("edge")]:
        stated = recipe.load(name, ["network.pretrained=false", "network.weights=null", "size=[64,96]"])
        if stated.network.method != method:
            continue
        network = models.build(stated.network, stated.tasks)
        assert [type(module) for module in purposes.having(network, purposes.BACKBONE)] == [Backbone]
        for form in (network, prepare(network, stated), exact.rewrite(prepare(network, stated), stated)):
            for path, module in form.named_modules(remove_duplicate=False):
                said = NAMES.get(path.split(".")[-1])
                held = module.children() if isinstance(module, nn.ModuleList) else [module]
                assert not said or {getattr(each, "purpose", "") for each in held} == {said}, path
            placing = [
                path for path, module in form.named_modules() if getattr(module, "purpose", "") == purposes.COORDINATES
            ]
            assert all(path.endswith("coordinates") for path in placing)
