"""DeMT with Swin-S on NYUD-v2 (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461)."""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMT", parameters=53.03, flops=121.05, semseg=51.5, depth=0.5474, normals=20.02, edge=78.1)
recipe = paper("nyud_demt_swin_s", "DeMT, Swin-S, 425x560", "demt", "swin_s", width=256)
