"""SCA-MTL with HRNet18-S on NYUD-v2, semantics and depth (Kim et al., ICIP 2022, https://arxiv.org/abs/2209.02518).

What differs: a crop of the enlarged frame lies anywhere, not in its middle. The authors' other setting, normals as an
auxiliary task, fails in their code and is no recipe.
"""

from edgemtl.data.nyud import FRAMES, TASKS
from edgemtl.recipes._papers import published_network, reported, sca_training
from edgemtl.records.recipe import Augment, Data, Recipe

published = reported("SCA-MTL")
recipe = Recipe(
    name="nyud_sca_hrnet18",
    summary="SCA-MTL, HRNet18-S, two tasks, 480x640",
    data=Data(name="nyud"),
    tasks={name: TASKS[name] for name in ("semseg", "depth")},
    size=(480, 640),
    network=published_network("sca", "hrnet18"),
    augment=Augment(scales=(1.0, 1.2, 1.5), colour=0.0, class_ratio=1.0),
    training=sca_training(10, 100, FRAMES["train"], {"semseg": 1.44, "depth": 1.15}),
)
