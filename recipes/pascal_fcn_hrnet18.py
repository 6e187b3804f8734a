"""The papers' baseline with HRNet18-S on PASCAL-Context (Bruggemann et al., ICCV 2021, https://arxiv.org/abs/2104.13874).

One head per task and no exchange between them; `--tasks edge` and the like give the single-task networks. The rate is
that of ATRC's single-task networks.
"""

from edgemtl.recipes._pascal import paper

recipe = paper("pascal_fcn_hrnet18", "Plain heads, HRNet18-S, 512x512", "fcn", "hrnet18", rate=0.005)
