"""MQTransformer with Swin-S on PASCAL-Context (Xu et al., TCSVT 2023, https://arxiv.org/abs/2205.14354).

The authors' code builds no Swin-S; this is their network on it.
"""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported("MQTransformer", semseg=71.25, human_parts=60.11, sal=84.05, normals=14.74, edge=71.8)
recipe = paper("pascal_mqtransformer_swin_s", "MQTransformer, Swin-S, 512x512", "mqtransformer", "swin_s")
