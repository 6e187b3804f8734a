"""Parameters and MACs agree with counts made otherwise, and those that are kept are those of the code."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from edgemtl.device import catalogue
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.models import build
from edgemtl.ops import deform_conv2d
from edgemtl.records import recipe
from edgemtl.training import cost as c
from tests.every import EVERYTHING

pytestmark = pytest.mark.slow
# G of the published code by the same counter.
AUTHORS = {"nyud_demt_hrnet18": 30.73, "nyud_demt_swin_t": 128.61, "nyud_demt_swin_s": 149.36}


class Products(TorchFunctionMode):
    """Adds up the products of every call that has any, from the shapes of what goes in and comes out."""

    macs = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (F.conv2d, F.linear):
            self.macs += out.numel() * args[1][0].numel()
        elif func in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__):
            # A weight times a vector of weights has nothing to do with the image, and the counter passes over it.
            self.macs += 0 if args[1].ndim == 1 else out.numel() * args[0].shape[-1]
        elif func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            self.macs += query.numel() * key.shape[-2] + out.numel() * value.shape[-2]
        return out


@pytest.mark.parametrize(
    "name", ["nyud_demt_swin_t", "nyud_demt_hrnet18", "nyud_fcn_edge", "nyud_mqtransformer_edge", "nyud_sca_edge"]
)
def test_macs_are_those_of_every_call_added_up(name):
    small = recipe.load(name, ["size=[75,110]"])
    with torch.device("meta"), torch.no_grad():
        network = build(small.network.blank(), small.tasks).eval()
        with Products() as products:
            network(torch.empty(1, 3, 75, 110))
    assert c.cost(small) == (sum(p.numel() for p in network.parameters()), products.macs)


@pytest.mark.parametrize("groups, kernel", [(1, 1), (2, 1), (1, 3)])
def test_a_deformable_convolution_counts_as_one_with_its_weight(groups, kernel):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        weight = torch.empty(6, 8 // groups, kernel, kernel)
        deform_conv2d(torch.empty(1, 8, 9, 11), torch.empty(1, 16 * kernel**2, 9, 11), weight, padding=kernel // 2)
    assert counter.get_total_flops() == 2 * 9 * 11 * weight.numel()


@cache
def counted(name):
    return c.cost(recipe.load(name))


@pytest.mark.parametrize("name, authors", AUTHORS.items())
def test_what_demt_saves_makes_up_for_the_authors_count(name, authors):
    made = recipe.load(name)
    width, heads, tasks, pixels = made.network.options["width"], 4, 4, 107 * 140
    channels = (18, 36, 72, 144) if "hrnet" in name else (96, 192, 384, 768)
    sizes = (pixels, 54 * 70, 27 * 35, 14 * 18)
    enlarged = sum(channels) * width * pixels - sum(n * width * size for n, size in zip(channels, sizes))
    query_and_key = 2 * width * width * tasks * pixels
    attention = 2 * tasks * width * pixels  # of the interaction, over one key
    constants = 2 * tasks * tasks * width * (heads - 1) * pixels  # the queries' attention: convolutions of all channels
    saved = enlarged + query_and_key + attention - constants
    assert (counted(name).macs + saved) / 1e9 == pytest.approx(authors, abs=0.01)


def test_what_is_kept_is_what_is_counted():
    """Of the networks for devices; with EDGEMTL_EVERYTHING=1 of all."""
    kept, every = {entry.recipe.name: entry.cost for entry in catalogue.recipes_by_name()}, registry.names("recipes")
    assert kept.keys() == set(every)
    names = every if EVERYTHING else [name for name in every if name.endswith("_edge") or name in AUTHORS]
    assert {name: kept[name] for name in names} == {name: counted(name) for name in names}, (
        f"run: {catalogue.COUNT_COMMAND}"
    )


def test_counts_and_tables_are_written(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables -->\noutdated\n<!-- end of tables -->\nafter")
    for module in (c, catalogue):
        monkeypatch.setattr(module, "COSTS", tmp_path / "costs.json")
    monkeypatch.setattr(c, "cost", lambda recipe: c.Cost(1_234_567, 8_900_000_000))
    monkeypatch.setattr("sys.argv", ["cost", str(page)])
    assert c.main() == 0
    before, tables, after = catalogue.cut(page)
    assert (before, after) == ("before\n<!-- tables -->\n", "<!-- end of tables -->\nafter")
    assert "outdated" not in tables and "| `nyud_edge` | 240x320 | 1.23 M |  | 8.90 G |" in tables
    again = page.read_text()
    assert c.main() == 0 and page.read_text() == again


def test_a_wrong_option_is_one_clear_line():
    with pytest.raises(UsageError, match="did you mean 'width'"):
        c.cost(recipe.load("scenes_edge", ["network.options.widht=3"]))
