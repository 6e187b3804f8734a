"""DeMT with Swin-T and two mixers on NYUD-v2 (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461).

The paper's row has 11 % more parameters than the authors' code with that depth.
"""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMT", parameters=36.6, semseg=47.45, depth=0.5563, normals=19.9, edge=77.0)
recipe = paper("nyud_demt_swin_t_depth2", "DeMT of depth 2, Swin-T, 425x560", "demt", "swin_t", width=256, depth=2)
