"""The plain forms that speed is measured against compute what edgemtl's networks do."""

from typing import Any

import pytest
import torch
from torch import nn

from edgemtl import models
from edgemtl.records import recipe
from tests.benchmarks.plain_demt import by_grid_sample
from tests.benchmarks.speed import cases

pytestmark = pytest.mark.slow

CASES = {
    "nyud_demt_hrnet18": ["size=[33,49]", "network.options.width=16"],
    "nyud_mqtransformer_hrnet48": [
        "network.backbone=hrnet_w18_small_v2", "size=[65,97]", "network.options.width=32", "network.options.depth=2",
    ],
    "nyud_sca_hrnet18": ["size=[64,96]"],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_same_network(name: str) -> None:
    stated = recipe.load(name, ["network.pretrained=false", *CASES[name]])
    torch.manual_seed(0)
    network = models.build(stated.network, stated.tasks).eval()
    _stir(network)
    what, plain = cases.plain_form(stated, network, by_grid_sample)
    assert what == "published graph" and plain is not network
    image = torch.randn(1, 3, *stated.size)
    with torch.no_grad():
        wanted, found = network(image), plain.eval()(image)
    for task, raw in wanted.items():
        assert (found[task] - raw).abs().max() < 1e-4 * raw.std(), task


@pytest.mark.parametrize(
    ("name", "settings", "gmacs"),  # of the authors' own code, counted by torch
    [
        ("nyud_demt_hrnet18", [], 30.7),
        ("nyud_demt_swin_t", [], 128.6),
        ("nyud_mqtransformer_hrnet48", ["network.backbone=hrnet_w18_small_v2"], 103.4),  # + 3.9 that nobody reads
        ("nyud_sca_hrnet18", [], 78.6),
    ],
)
def test_it_multiplies_as_often_as_the_authors_code(name: str, settings: list[str], gmacs: float) -> None:
    stated = recipe.load(name, ["network.pretrained=false", *settings])
    with torch.device("meta"):
        network = models.build(stated.network, stated.tasks).eval()
        _, plain = cases.plain_form(stated, network, by_grid_sample)
        found = cases.work(lambda: plain.eval()(torch.empty(1, 3, *stated.size)))
    assert found.macs / 1e9 == pytest.approx(gmacs, abs=0.1)


def test_a_network_of_no_paper_is_its_own_plain_form() -> None:
    stated = recipe.load("nyud_edge", ["network.pretrained=false", "size=[64,96]"])
    network = models.build(stated.network, stated.tasks).eval()
    what, plain = cases.plain_form(stated, network, by_grid_sample)
    assert plain is network and "no paper" in what


def test_work_is_counted() -> None:
    layer: Any = nn.Conv2d(4, 8, 1, bias=False)
    found = cases.work(lambda: layer(torch.zeros(1, 4, 5, 6)))
    assert found == cases.Work(macs=4 * 8 * 30, elements=4 * 30 + 8 * 30 + 4 * 8)


def _stir(network: nn.Module) -> None:
    """No parameter is at a value that hides what it does, such as a scale of 1."""
    draw = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)
