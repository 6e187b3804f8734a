"""The deployment form equals the trained network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemtl import models, objectives
from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed
from edgemtl.networks.prepare import Deployed, Normalise, prepare
from edgemtl.records import recipe
from tests import every

pytestmark = pytest.mark.slow

RECIPES = {name: recipe.load(name, ["network.pretrained=false", "size=[64,96]"]) for name in every.recipes()}


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
    assert registry.names("objectives") == registry.names("tasks")
    raw = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(objectives.of("normals").activate(raw).square().sum(1), torch.ones(2, 5, 5))
    assert objectives.of("depth").activate(raw[:, :1]).min() == 0
    assert torch.equal(objectives.of("semseg").activate(raw), raw.argmax(1).int())
    torch.testing.assert_close(objectives.of("sal").activate(raw[:, :2]), raw[:, :2].softmax(1)[:, 1])


@pytest.mark.parametrize(
    "name", ["nyud_edge", "nyud_demtg_swin_t", "nyud_mqtransformer_edge", "nyud_sca_edge", "nyud_fcn_edge"]
)
def test_one_task_alone_has_no_layer_without_effect(name):
    """Some converters drop such a layer, as queries and keys over one token are, and then the ledger misses it."""
    chosen = recipe.only(RECIPES[name], ["semseg"])
    network = trained(models.build(chosen.network, chosen.tasks))
    prepared, frame = prepare(network, chosen), torch.rand(1, 3, *chosen.size) * 255
    wanted, got = Deployed(network, chosen.size, chosen.map_stride).raw(frame)["semseg"], prepared.raw(frame)["semseg"]
    assert (got - wanted).abs().max() < 1e-4 * wanted.std()
    weights = {key: p.requires_grad_() for key, p in prepared.network.named_parameters() if key.endswith("weight")}
    effects = torch.autograd.grad(
        prepared.raw(frame)["semseg"].square().sum(), list(weights.values()), allow_unused=True
    )
    assert [key for key, effect in zip(weights, effects, strict=True) if effect is None or not effect.any()] == []


@pytest.mark.parametrize("backbone", ["repvgg_a0", "mobileone_s0"])
def test_branches_that_training_alone_needs_are_joined(backbone):
    """RepVGG's have ranges that float16 does not hold, one by one, and two quantizers more for each block."""
    chosen = recipe.override(RECIPES["nyud_edge"], [f"network.backbone={backbone}"])
    torch.manual_seed(0)
    network = trained(models.build(chosen.network, chosen.tasks))
    prepared, frame = prepare(network, chosen), torch.rand(1, 3, *chosen.size) * 255
    wanted, got = Deployed(network, chosen.size, chosen.map_stride).raw(frame), prepared.raw(frame)
    for task, x in wanted.items():  # deformable sampling enlarges what summing in another order changes
        assert (got[task] - x).square().mean().sqrt() < 1e-4 * x.std(), task
    convolutions = [m for m in prepared.network.backbone.modules() if isinstance(m, nn.Conv2d)]
    blocks = [m for m in network.backbone.modules() if hasattr(m, "reparam_conv")]
    assert len(convolutions) == len(blocks)
    assert not any(p.requires_grad for p in prepared.parameters())


class Branches(nn.Module):
    """Convolutions in front of a BatchNorm, wired in the way that `wiring` says."""

    def __init__(self, wiring: str) -> None:
        super().__init__()
        self.wiring = wiring
        groups = 2 if wiring == "grouped transposed" else 1
        layer = (
            nn.ConvTranspose2d if "transposed" in wiring else Standardised if wiring == "standardised" else nn.Conv2d
        )
        self.conv, self.other = layer(3, 3, 1) if groups == 1 else layer(4, 6, 1, groups=2), nn.Conv2d(3, 3, 1)
        channels = 6 if groups == 2 else 3
        self.norm, self.second = nn.BatchNorm2d(channels), nn.BatchNorm2d(3)

    def forward(self, image):
        x = self.conv(torch.cat([image, image[:, :1]], 1) if self.wiring == "grouped transposed" else image)
        y = self.norm(x)
        if self.wiring == "second reader":
            y = y + x
        if self.wiring == "two norms":
            y = y + self.second(x)
        if self.wiring == "twice, once without":
            y = y + self.conv(image.flip(1))
        if self.wiring == "norm of two layers":
            y = y + self.norm(self.other(image))
        if self.wiring == "an output":
            return {"depth": y, "normals": x}
        return {"depth": y}


class Standardised(nn.Conv2d):
    """A convolution that computes with another weight than the one it keeps."""

    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.std(), self.bias)


WIRINGS = {
    "plain": 1, "transposed": 1, "grouped transposed": 0, "second reader": 0, "two norms": 0, "twice, once without": 0,
    "norm of two layers": 0, "an output": 0, "standardised": 0,
}  # fmt: skip


@pytest.mark.parametrize("wiring", WIRINGS)
def test_norms_are_folded_where_that_is_exact(wiring):
    network, chosen = trained(Branches(wiring)), RECIPES["nyud_edge"]
    frame = torch.rand(1, 3, *chosen.size) * 255
    wanted = network(Normalise()(frame))
    prepared = prepare(network, chosen)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in prepared.modules())
    assert norms == sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) - WIRINGS[wiring]
    for task, x in prepared.raw(frame).items():
        assert (x - wanted[task]).abs().max() < 1e-4 * wanted[task].std()


class Wrong(nn.Conv2d):
    def merge(self, *shapes):
        self.weight.data *= 1.1
        return self


def test_a_rewriting_that_changes_the_network_is_refused():
    chosen = RECIPES["nyud_edge"]
    network = Branches("plain").eval()
    network.conv = Wrong(3, 3, 1)
    with pytest.raises(CheckFailed, match=r"depth: the deployment form differs .* by [\d.]+, with a standard"):
        prepare(network, chosen)
    network.conv.weight.data[:] = torch.nan
    with pytest.raises(CheckFailed, match="depth: the network gives NaN or infinity"):
        prepare(network, chosen)
