"""A step with `training.recompute` is the step without it, to the last bit, and keeps less."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from edgemtl import models
from edgemtl.records import recipe
from edgemtl.training.launch import launch
from edgemtl.training.recompute import recompute
from tests.benchmarks.measure import saved

RECIPES = {  # the share that is kept, at most
    "nyud_edge": 0.3, "nyud_demt_hrnet18": 0.6, "nyud_demt_swin_t": 0.5, "nyud_mqtransformer_edge": 0.2,
    "nyud_sca_edge": 0.2,
}  # fmt: skip


def step(network: nn.Module, image: torch.Tensor, precision: Any, again: bool) -> dict[str, torch.Tensor]:
    """Every gradient, buffer and output of a step of a copy of the network, and how many bytes it kept."""
    network = copy.deepcopy(network).train()
    fabric = launch(precision, "cpu", 1, 1, "auto")
    if again:
        recompute(network, fabric.strategy.precision.forward_context)
    model = fabric.setup_module(network)
    found: dict[str, torch.Tensor] = {}

    def run() -> None:
        torch.manual_seed(3)  # of drop path
        made = model(image)
        found.update({task: (raw if isinstance(raw, torch.Tensor) else raw[0]).detach() for task, raw in made.items()})
        outputs = [raw for each in made.values() for raw in ([each] if isinstance(each, torch.Tensor) else each)]
        fabric.backward(sum(raw.float().square().mean() for raw in outputs))

    found["kept"] = torch.tensor(saved(run, network))
    found |= {f"{name}'s gradient": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return found | {name: buffer.clone() for name, buffer in network.named_buffers()}


# nyud_edge has the depthwise layers whose gradients mixed precision leaves out.
@pytest.mark.parametrize("name, precision", [*((name, "32-true") for name in RECIPES), ("nyud_edge", "bf16-mixed")])
@pytest.mark.slow
def test_the_same_bits_and_less_kept(name, precision):
    chosen = recipe.load(name, ["size=[64,96]", "network.pretrained=false"])
    torch.manual_seed(0)
    network = models.build(chosen.network, chosen.tasks).to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, *chosen.size).contiguous(memory_format=torch.channels_last)
    wanted, found = (step(network, image, precision, again) for again in (False, True))
    assert found.pop("kept") < RECIPES[name] * wanted.pop("kept")
    assert found.keys() == wanted.keys() and any(key.endswith("num_batches_tracked") for key in found)
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


def test_without_gradients_a_block_runs_once():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.runs = nn.Conv2d(3, 3, 1), 0

        def forward(self, x):
            self.runs += 1
            return self.layer(x)

    block = Block()
    network, x = nn.Sequential(block), torch.randn(1, 3, 4, 4)
    recompute(network)
    with torch.no_grad():
        network(x)
    assert block.runs == 1
    network(x).sum().backward()
    assert block.runs == 3  # with gradients: forwards, and again for the backward pass
