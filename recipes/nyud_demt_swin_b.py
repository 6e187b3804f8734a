"""DeMT with Swin-B on NYUD-v2 (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461).

The paper's row has 1 % fewer parameters than the authors' code.
"""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMT", parameters=90.9, flops=153.65, semseg=54.34, depth=0.5209, normals=19.21, edge=78.5)
recipe = paper("nyud_demt_swin_b", "DeMT, Swin-B, 425x560", "demt", "swin_b", width=256)
