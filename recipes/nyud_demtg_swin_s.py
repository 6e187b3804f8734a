"""DeMTG with Swin-S on NYUD-v2 (Xu et al., 2023, https://arxiv.org/abs/2308.05721)."""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMTG", parameters=54.52, flops=145.84, semseg=52.23, depth=0.5599, normals=20.05, edge=78.4)
recipe = paper("nyud_demtg_swin_s", "DeMTG, Swin-S, 425x560", "demt", "swin_s", width=256, depth=2, heads=2, gated=True)
