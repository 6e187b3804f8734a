"""MQTransformer with Swin-T on NYUD-v2 (Xu et al., TCSVT 2023, https://arxiv.org/abs/2205.14354).

The authors' code builds no Swin-T; this is their network on it. The paper's scores are not in its repository.
"""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("MQTransformer")
recipe = paper("nyud_mqtransformer_swin_t", "MQTransformer, Swin-T, 425x560", "mqtransformer", "swin_t")
