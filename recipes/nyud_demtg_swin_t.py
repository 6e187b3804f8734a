"""DeMTG with Swin-T on NYUD-v2 (Xu et al., 2023, https://arxiv.org/abs/2308.05721)."""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMTG", parameters=33.2, flops=125.49, semseg=47.2, depth=0.566, normals=20.15, edge=77.2)
recipe = paper("nyud_demtg_swin_t", "DeMTG, Swin-T, 425x560", "demt", "swin_t", width=256, depth=2, heads=2, gated=True)
