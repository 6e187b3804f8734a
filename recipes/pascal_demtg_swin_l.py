"""DeMTG with Swin-L on PASCAL-Context (Xu et al., 2023, https://arxiv.org/abs/2308.05721)."""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported("DeMTG", semseg=78.54, human_parts=67.42, sal=83.74, normals=14.17, edge=74.9)
recipe = paper(
    "pascal_demtg_swin_l", "DeMTG, Swin-L, 512x512", "demt", "swin_l", width=256, depth=2, heads=2, gated=True
)
