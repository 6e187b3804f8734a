"""The papers' baseline with Swin-T on PASCAL-Context (Bruggemann et al., ICCV 2021, https://arxiv.org/abs/2104.13874).

One head per task and no exchange between them; `--tasks edge` and the like give the single-task networks.
"""

from edgemtl.recipes._pascal import paper

recipe = paper("pascal_fcn_swin_t", "Plain heads, Swin-T, 512x512", "fcn", "swin_t")
