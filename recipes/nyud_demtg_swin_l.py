"""DeMTG with Swin-L on NYUD-v2 (Xu et al., 2023, https://arxiv.org/abs/2308.05721)."""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMTG", parameters=202.92, flops=321.22, semseg=57.55, depth=0.5037, normals=19.21, edge=79.0)
recipe = paper("nyud_demtg_swin_l", "DeMTG, Swin-L, 425x560", "demt", "swin_l", width=256, depth=2, heads=2, gated=True)
