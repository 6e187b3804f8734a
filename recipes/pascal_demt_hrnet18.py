"""DeMT with HRNet18-S on PASCAL-Context (Xu, Yang, Zhang; AAAI 2023, https://arxiv.org/abs/2301.03461).

Width 128, which the paper's NYUD-v2 row needs. Its HRNet schedule is not published; the rate is that of ATRC's
single-task HRNets on this data set.
"""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported("DeMT", semseg=59.23, human_parts=57.93, sal=83.93, normals=14.02, edge=69.8)
recipe = paper("pascal_demt_hrnet18", "DeMT, HRNet18-S, 512x512", "demt", "hrnet18", width=128, rate=0.005)
