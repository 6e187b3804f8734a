"""DeMT with Swin-B on PASCAL-Context (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461).

The authors' code has 2 % fewer parameters than they report.
"""

from edgemtl.recipe import Network, Recipe
from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported(
    "DeMT", parameters=94.9, flops=143.0, semseg=75.33, human_parts=63.11, sal=83.42, normals=14.54, edge=73.2
)


def recipe() -> Recipe:
    return paper(
        name="pascal_demt_swin_b",
        summary="DeMT, Swin-B, 512x512",
        network=Network(
            method="demt", backbone="swin_base_patch4_window7_224", pretrained=True, options={"width": 256}
        ),
    )
