"""DeMTG with Swin-B on NYUD-v2 (Xu et al., 2023, https://arxiv.org/abs/2308.05721)."""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("DeMTG", parameters=94.4, semseg=54.45, depth=0.5228, normals=19.33, edge=78.6)
recipe = paper("nyud_demtg_swin_b", "DeMTG, Swin-B, 425x560", "demt", "swin_b", width=256, depth=2, heads=2, gated=True)
