"""The papers' baseline with Swin-T on NYUD-v2 (Bruggemann et al., ICCV 2021, https://arxiv.org/abs/2104.13874).

One head per task and no exchange between them; `--tasks depth` and the like give the single-task networks.
"""

from edgemtl.recipes._nyud import paper

recipe = paper("nyud_fcn_swin_t", "Plain heads, Swin-T, 425x560", "fcn", "swin_t")
