"""DeMTG with Swin-T on PASCAL-Context (Xu et al., 2023, https://arxiv.org/abs/2308.05721)."""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported("DeMTG", semseg=69.44, human_parts=58.02, sal=83.31, normals=14.31, edge=71.2)
recipe = paper(
    "pascal_demtg_swin_t", "DeMTG, Swin-T, 512x512", "demt", "swin_t", width=256, depth=2, heads=2, gated=True
)
