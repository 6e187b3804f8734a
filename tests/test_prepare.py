"""The deployment form equals the trained network."""

import pytest
import torch
from torch import nn

from edgemtl import models, recipe, registry
from edgemtl.prepare import ACTIVATIONS, Deployed, prepare

pytestmark = pytest.mark.slow

RECIPES = {name: recipe.load(name, ["network.pretrained=false", "size=[64,96]"]) for name in registry.names("recipes")}


def trained(network: nn.Module) -> nn.Module:
    """Statistics and weights as after training: nothing is at a value that would hide a mistake."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=(module.weight[0].numel()) ** -0.5)
    return network.eval()


@pytest.mark.parametrize("name", RECIPES)
def test_the_prepared_network_equals_the_original(name):
    chosen = RECIPES[name]
    network = trained(models.build(chosen.network, chosen.tasks))
    frame = torch.rand(1, 3, *chosen.size) * 255
    plain, prepared = Deployed(network, chosen.size, chosen.map_stride).eval(), prepare(network, chosen)
    with torch.no_grad():
        before, after = plain.raw(frame), prepared.raw(frame)
        maps = prepared(frame)
    for task, x in before.items():
        assert (after[task] - x).abs().max() < 1e-4 * x.std() + 1e-6, task
    small = tuple(-(-n // chosen.map_stride) for n in chosen.size)
    assert all(x.shape[-2:] == small and len(x) == 1 for x in maps.values())


def test_norms_are_folded_and_the_original_is_untouched():
    chosen = RECIPES["nyud_edge"]
    network = trained(models.build(chosen.network, chosen.tasks))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    prepared = prepare(network, chosen)
    assert not [m for m in prepared.modules() if isinstance(m, nn.BatchNorm2d)]
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_every_task_has_an_activation_and_its_maps_are_in_range():
    assert set(ACTIVATIONS) == set(registry.names("tasks"))
    raw = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(ACTIVATIONS["normals"](raw).square().sum(1), torch.ones(2, 5, 5))
    assert ACTIVATIONS["depth"](raw[:, :1]).min() == 0
    assert torch.equal(ACTIVATIONS["semseg"](raw), raw.argmax(1).int())
    torch.testing.assert_close(ACTIVATIONS["sal"](raw[:, :2]), raw[:, :2].softmax(1)[:, 1])
