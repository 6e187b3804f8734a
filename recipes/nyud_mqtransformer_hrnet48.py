"""MQTransformer with HRNet-W48 on NYUD-v2 (Xu et al., TCSVT 2023, https://arxiv.org/abs/2205.14354).

The authors' code builds it; no scores and no schedule are published. The rate is that of ATRC's HRNet on this data set.
"""

from edgemtl.recipes._nyud import paper
from edgemtl.recipes._papers import reported

published = reported("MQTransformer")
recipe = paper("nyud_mqtransformer_hrnet48", "MQTransformer, HRNet-W48, 425x560", "mqtransformer", "hrnet48", rate=0.01)
