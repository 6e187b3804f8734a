"""SCA-MTL with HRNet18-S on PASCAL, semantics, parts, saliency (Kim et al., ICIP 2022, https://arxiv.org/abs/2209.02518).

Saliency has one output, a logit, where DeMT and MQTransformer have two.
"""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import TASKS, sca
from edgemtl.tasks.sal import Saliency

published = reported("SCA-MTL")
recipe = sca(
    name="pascal_sca_hrnet18_parts",
    summary="SCA-MTL, HRNet18-S, three tasks, 512x512",
    tasks={"semseg": TASKS["semseg"], "human_parts": TASKS["human_parts"], "sal": Saliency(outputs=1)},
    batch=8,
    epochs=80,
    weights={"semseg": 1.0, "human_parts": 2.0, "sal": 5.0},
)
