"""DeMT with Swin-S on PASCAL-Context (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461)."""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported(
    "DeMT", parameters=54.3, flops=112.3, semseg=72.01, human_parts=58.96, sal=83.2, normals=14.57, edge=72.1
)
recipe = paper("pascal_demt_swin_s", "DeMT, Swin-S, 512x512", "demt", "swin_s", width=256)
