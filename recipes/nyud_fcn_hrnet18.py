"""The papers' baseline with HRNet18-S on NYUD-v2 (Bruggemann et al., ICCV 2021, https://arxiv.org/abs/2104.13874).

One head per task and no exchange between them; `--tasks depth` and the like give the single-task networks.
"""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("ATRC", semseg=36.35, depth=0.6248, normals=21.02)
recipe = paper("nyud_fcn_hrnet18", "Plain heads, HRNet18-S, 425x560", "fcn", "hrnet18", rate=0.01)
