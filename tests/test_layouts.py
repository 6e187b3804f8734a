"""What a training step must not do: compute in float64, or bring maps into another layout again and again."""

from functools import cache

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgemtl import models
from edgemtl.records import recipe
from edgemtl.training.launch import launch

RECIPES = ["nyud_edge", "nyud_fcn_edge", "nyud_mqtransformer_edge", "nyud_sca_edge"]
KEPT_LAYOUT = RECIPES[:2]  # the others' attention over pixels is matrix products, for which maps are transposed
MAPS = {"convolution": 1, "convolution_backward": 2, "native_batch_norm": 1, "native_batch_norm_backward": 2}


class Watch(TorchDispatchMode):
    """Notes results in float64, and layers that are given maps (B, C, H, W) that are not channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.wide: list[str] = []
        self.turned: list[str] = []
        self.layers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(made)):
            self.wide.append(name)
        for x in args[: MAPS.get(name, 0)]:
            self.layers += 1
            if not x.is_contiguous(memory_format=torch.channels_last):
                self.turned.append(f"{name} {tuple(x.shape)}")
        return made


@cache
def step(name: str) -> Watch:
    """What one step of the recipe's network did."""
    chosen = recipe.load(name, ["network.pretrained=false"])
    torch.manual_seed(0)
    network = models.build(chosen.network, chosen.tasks).to(memory_format=torch.channels_last).train()
    image = torch.randn(2, 3, 64, 96).to(memory_format=torch.channels_last)
    with Watch() as watch:
        maps = [x for x in tree_leaves(network(image)) if isinstance(x, Tensor)]
        torch.autograd.backward(maps, [torch.randn_like(x) for x in maps])
    assert watch.layers > 300
    return watch


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_nothing_is_computed_in_float64(name):
    assert step(name).wide == []


@pytest.mark.parametrize("name", KEPT_LAYOUT)
def test_every_layer_is_given_channels_last_maps_in_both_directions(name):
    assert step(name).turned == []


def test_in_bfloat16_only_coordinates_stay_float32():
    chosen = recipe.load("nyud_edge", ["network.pretrained=false"])
    network = models.build(chosen.network, chosen.tasks).to(memory_format=torch.channels_last).train()
    wide = []
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: wide.append(name) if output.dtype == torch.float32 else None
            )
    launch("bf16-mixed", "cpu", 1, 1, "auto").setup(network)(torch.randn(2, 3, 64, 96))
    assert wide and all(".offsets." in name for name in wide)
