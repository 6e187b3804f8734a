"""DeMT with Swin-B on PASCAL-Context (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461).

The authors' code has 2 % fewer parameters than they report.
"""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported(
    "DeMT", parameters=94.9, flops=143.0, semseg=75.33, human_parts=63.11, sal=83.42, normals=14.54, edge=73.2
)
recipe = paper("pascal_demt_swin_b", "DeMT, Swin-B, 512x512", "demt", "swin_b", width=256)
