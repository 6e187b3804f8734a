"""DeMT with Swin-T on NYUD-v2 at 425x560, the paper's settings."""

from edgemtl.recipe import Network, Recipe
from edgemtl.recipes._nyud import paper


def recipe() -> Recipe:
    return paper(
        name="nyud_demt_swin_t",
        summary="DeMT, Swin-T, width 256, 425x560",
        network=Network(
            method="demt", backbone="swin_tiny_patch4_window7_224", pretrained=True, options={"width": 256}
        ),
    )
