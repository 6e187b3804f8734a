"""MQTransformer with Swin-T on PASCAL-Context (Xu et al., TCSVT 2023, https://arxiv.org/abs/2205.14354).

The authors' code builds no Swin-T; this is their network on it.
"""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import paper

published = reported("MQTransformer", semseg=68.24, human_parts=57.05, sal=83.4, normals=14.56, edge=71.1)
recipe = paper("pascal_mqtransformer_swin_t", "MQTransformer, Swin-T, 512x512", "mqtransformer", "swin_t")
