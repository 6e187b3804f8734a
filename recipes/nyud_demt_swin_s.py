"""DeMT with Swin-S on NYUD-v2 (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461)."""

from edgemtl.recipe import Network, Recipe
from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMT", parameters=53.03, flops=121.05, semseg=51.5, depth=0.5474, normals=20.02, edge=78.1)


def recipe() -> Recipe:
    return paper(
        name="nyud_demt_swin_s",
        summary="DeMT, Swin-S, 425x560",
        network=Network(
            method="demt", backbone="swin_small_patch4_window7_224", pretrained=True, options={"width": 256}
        ),
    )
