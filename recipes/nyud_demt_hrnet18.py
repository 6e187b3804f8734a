"""DeMT with HRNet18-S on NYUD-v2 at 425x560, the paper's settings."""

from edgemtl.recipe import Network, Recipe
from edgemtl.recipes._nyud import paper


def recipe() -> Recipe:
    return paper(
        name="nyud_demt_hrnet18",
        summary="DeMT, HRNet18-S, width 128, 425x560",
        network=Network(method="demt", backbone="hrnet_w18_small_v2", pretrained=True, options={"width": 128}),
    )
