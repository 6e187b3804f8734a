"""Products and memory of every method are proportional to the number of pixels, up to what no pixel has a part in."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgemtl import models
from edgemtl.records import recipe

# Images as high as this, and one, two and three times as wide, are whole windows at every scale: nothing is padded.
SIDES = {"nyud_edge": 64, "nyud_mqtransformer_edge": 64, "nyud_sca_edge": 160}


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.slow
def test_products_grow_with_the_pixels_exactly(name):
    network = build(name).eval()
    with torch.no_grad():
        one, two, three = (products(network, (SIDES[name], n * SIDES[name])) for n in (1, 2, 3))
    assert three - two == two - one > 0.5 * one


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.slow
def test_memory_kept_for_the_backward_pass_grows_with_the_pixels(name):
    torch.manual_seed(0)
    network = build(name).to(memory_format=torch.channels_last).train()
    one, two, three = (kept(network, (SIDES[name], n * SIDES[name])) for n in (1, 2, 3))
    assert three - two == pytest.approx(two - one, rel=1e-3) and two - one > 0.5 * one


def build(name: str) -> nn.Module:
    chosen = recipe.load(name, ["network.pretrained=false"])
    return models.build(chosen.network, chosen.tasks)


def products(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-accumulates of one image, twice over."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *size))
    return counter.get_total_flops()


def kept(network: nn.Module, size: tuple[int, int]) -> int:
    """Bytes that a forward pass keeps beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.randn(2, 3, *size).to(memory_format=torch.channels_last))
    return sum(storage.nbytes() for address, storage in storages.items() if address not in weights)
