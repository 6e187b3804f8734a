"""DeMT with HRNet18-S on NYUD-v2 (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461).

The paper's row needs width 128. Its HRNet schedule is not published; the rate is that of ATRC's HRNet on this data set.
"""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMT", parameters=4.76, flops=22.07, semseg=39.18, depth=0.5922, normals=20.21, edge=76.4)
recipe = paper("nyud_demt_hrnet18", "DeMT, HRNet18-S, 425x560", "demt", "hrnet18", width=128, rate=0.01)
