"""The network that a further judge runs."""

from pathlib import Path

from torch import nn

from edgemtl.quantization import weights
from edgemtl.records.run import Run
from edgemtl.tasks import Size
from tests.prove import network as small


def network(run: str) -> tuple[nn.Module, Size]:
    """That of a run folder with int8 weights, or the small one where the name is "small"; with its frames' size."""
    if run == "small":
        return small.deployed(), small.SIZE
    return weights.load(Path(run), "int8"), Run(run).recipe.size
