"""DeMT with Swin-T on PASCAL-Context (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461)."""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported(
    "DeMT", parameters=33.0, flops=94.5, semseg=69.71, human_parts=57.18, sal=82.63, normals=14.56, edge=71.2
)
recipe = paper("pascal_demt_swin_t", "DeMT, Swin-T, 512x512", "demt", "swin_t", width=256)
