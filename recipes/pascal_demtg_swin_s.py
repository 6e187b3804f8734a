"""DeMTG with Swin-S on PASCAL-Context (Xu et al., 2023, https://arxiv.org/abs/2308.05721)."""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported("DeMTG", semseg=71.54, human_parts=61.49, sal=83.7, normals=14.9, edge=72.2)
recipe = paper(
    "pascal_demtg_swin_s", "DeMTG, Swin-S, 512x512", "demt", "swin_s", width=256, depth=2, heads=2, gated=True
)
