"""SCA-MTL with HRNet18-S on PASCAL, semantics and normals (Kim et al., ICIP 2022, https://arxiv.org/abs/2209.02518)."""

from edgemtl.recipes._papers import reported
from edgemtl.recipes._pascal import TASKS, sca

published = reported("SCA-MTL")
recipe = sca(
    name="pascal_sca_hrnet18",
    summary="SCA-MTL, HRNet18-S, two tasks, 512x512",
    tasks={name: TASKS[name] for name in ("semseg", "normals")},
    batch=16,
    epochs=100,
    weights={"semseg": 1.1, "normals": 40.0},
)
