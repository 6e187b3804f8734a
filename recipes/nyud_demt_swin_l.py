"""DeMT with Swin-L on NYUD-v2 (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461).

The authors' code has no Swin-L; this is their other Swins' network on it, and has the paper's number of parameters.
"""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMT", parameters=201.64, semseg=56.94, depth=0.5007, normals=19.14, edge=78.8)
recipe = paper("nyud_demt_swin_l", "DeMT, Swin-L, 425x560", "demt", "swin_l", width=256)
