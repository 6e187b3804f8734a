"""MQTransformer with Swin-L on NYUD-v2 (Xu et al., TCSVT 2023, https://arxiv.org/abs/2205.14354)."""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported(
    "MQTransformer", parameters=204.3, flops=365.25, semseg=54.84, depth=0.5325, normals=19.67, edge=78.2
)
recipe = paper("nyud_mqtransformer_swin_l", "MQTransformer, Swin-L, 425x560", "mqtransformer", "swin_l")
