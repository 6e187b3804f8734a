"""What a recipe's network costs: parameters, and multiply-accumulates (MACs) for one image of the recipe's size.

MACs are half of what torch.utils.flop_counter counts in the network as it is trained, in eval mode: convolutions (a
deformable one is its 1x1 convolution), linear layers and matrix products. Sampling, resizing, softmax, norms and sums
are not counted. Networks are built on torch's meta device, where tensors have shapes and no numbers.

`python -m edgemtl.training.cost docs/models.md` counts every recipe's network, keeps the counts beside the recipes,
where they are known without torch, and writes the tables of that page anew.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgemtl.device.catalogue import COSTS, Cost, recipes_by_name, write_tables
from edgemtl.ground import registry, show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import write_json
from edgemtl.models import build
from edgemtl.records import recipe as recipes
from edgemtl.records.recipe import Recipe


def cost(recipe: Recipe) -> Cost:
    """The cost of a recipe's network, about a second; UsageError for a wrong option."""
    with torch.device("meta"), torch.no_grad():
        network = build(recipe.network.blank(), recipe.tasks).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, *recipe.size))
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m edgemtl.training.cost", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("page", type=Path, metavar="FILE", help="the page whose tables to write anew")
    page = parser.parse_args().page
    try:
        names = registry.names("recipes")
        write_json(
            COSTS, {name: cost(recipes.load(name)) for name in show.track(names, "counting parameters and MACs")}
        )
        write_tables(page, recipes_by_name())
    except (UsageError, OSError) as error:
        print(f"edgemtl: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
