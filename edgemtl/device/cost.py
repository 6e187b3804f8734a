"""What a recipe's network costs: parameters, and multiply-accumulates (MACs) for one image of the recipe's size.

MACs are half of what torch.utils.flop_counter counts in the network as it is trained, in eval mode: convolutions (a
deformable one is its 1x1 convolution), linear layers and matrix products. Sampling, resizing, softmax, norms and sums
are not counted. Networks are built on torch's meta device, where tensors have shapes and no numbers, and what was
counted is kept in the user's cache folder.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from edgemtl import show
from edgemtl.data._files import user_cache
from edgemtl.errors import UsageError, needs
from edgemtl.files import write_json
from edgemtl.recipe import Recipe

COUNTER = "torch.utils.flop_counter"
PACKAGES = ("timm", "torch")  # that counting needs
PACKAGE = Path(__file__).parents[1]
SOURCES = ("device/cost.py", "networks/*.py", "models/*.py", "ops/*.py")  # that a count depends on


class Cost(NamedTuple):
    """Plain numbers, not millions."""

    parameters: int
    macs: int


def cost(recipe: Recipe) -> Cost:
    """The cost of a recipe's network, counted now, about a second. UsageError where torch or timm is missing."""
    with needs("train"):
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from edgemtl.models import build
    with torch.device("meta"), torch.no_grad():
        network = build(recipe.network.blank(), recipe.tasks).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, *recipe.size))
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)


def costs(wanted: Sequence[Recipe]) -> list[Cost | None]:
    """The cost of each recipe, None for one that was never counted where torch or timm is missing.

    What was not counted before is counted under a progress bar and kept.
    """
    found = [_kept(recipe) for recipe in wanted]
    missing = [number for number, made in enumerate(found) if made is None]
    if missing and all(find_spec(package) for package in PACKAGES):
        for number in show.track(missing, "counting parameters and MACs"):
            made = found[number] = cost(wanted[number])
            with suppress(UsageError):  # without a cache it takes as long the next time
                write_json(_place(wanted[number]), made._asdict())
    return found


def _kept(recipe: Recipe) -> Cost | None:
    try:
        return Cost(**json.loads(_place(recipe).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _place(recipe: Recipe) -> Path:
    """The file that keeps a recipe's cost, named after everything it depends on."""
    channels = {name: task.channels for name, task in recipe.tasks.items()}
    what = [recipe.network.blank().model_dump(mode="json"), channels, recipe.size, _code()]
    return user_cache() / "costs" / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}.json"


@cache
def _code() -> list[str]:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in PACKAGE.glob(pattern)):
        digest.update(path.read_bytes())
    return [digest.hexdigest(), *map(_version, PACKAGES)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
