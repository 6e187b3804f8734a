"""DeMTG with Swin-B on PASCAL-Context (Xu et al., 2023, https://arxiv.org/abs/2308.05721)."""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported("DeMTG", semseg=75.37, human_parts=64.82, sal=83.75, normals=14.22, edge=73.0)
recipe = paper(
    "pascal_demtg_swin_b", "DeMTG, Swin-B, 512x512", "demt", "swin_b", width=256, depth=2, heads=2, gated=True
)
