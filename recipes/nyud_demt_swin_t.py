"""DeMT with Swin-T on NYUD-v2 (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461)."""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMT", parameters=32.07, flops=100.7, semseg=46.36, depth=0.5871, normals=20.6, edge=76.9)
recipe = paper("nyud_demt_swin_t", "DeMT, Swin-T, 425x560", "demt", "swin_t", width=256)
