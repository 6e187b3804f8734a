"""DeMTG's checkpoints: https://github.com/yangyangxu0/DeMTG. The layout of DeMT with a gated MLP and 2 heads."""

from torch import Tensor

from edgemtl.models.demt import DeMT
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.reference import demt

DEAD, finder = demt.DEAD, demt.finder


def blank(backbone: Backbone, tasks: dict[str, int], state: dict[str, Tensor]) -> DeMT:
    """A DeMTG of the state_dict's sizes; ValueError where they are no DeMTG's."""
    return demt.blank(backbone, tasks, state, heads=2, gated=True)
