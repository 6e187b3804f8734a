"""DeMT with Swin-B on NYUD-v2 (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461).

The paper's row has 1 % fewer parameters than the authors' code.
"""

from edgemtl.recipe import Network, Recipe
from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMT", parameters=90.9, flops=153.65, semseg=54.34, depth=0.5209, normals=19.21, edge=78.5)


def recipe() -> Recipe:
    return paper(
        name="nyud_demt_swin_b",
        summary="DeMT, Swin-B, 425x560",
        network=Network(
            method="demt", backbone="swin_base_patch4_window7_224", pretrained=True, options={"width": 256}
        ),
    )
