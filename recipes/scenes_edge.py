"""All six tasks on rendered rooms in minutes: a small DeMT decoder on the bundled model's backbone, at 160x224."""

from edgemtl.data.scenes import CLASSES
from edgemtl.recipes._nyud import narrow_demt
from edgemtl.records.recipe import Augment, Compression, Data, Losses, Recipe, Training
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.edge import Edge
from edgemtl.tasks.human_parts import HumanParts
from edgemtl.tasks.normals import Normals
from edgemtl.tasks.sal import Saliency
from edgemtl.tasks.semseg import Semseg

# A class' share of the pixels of the 480 training rooms to the power -1/3, scaled to a mean of 1 per pixel. Of parts to
# the power -2/3, by which all of them together weigh as much as the background: else they are learned as one.
CLASS_WEIGHTS = {
    "semseg": (
        0.63, 0.79, 1.41, 1.29, 1.36, 1.80, 1.40, 1.39, 1.43, 1.57, 1.52, 1.59, 2.35, 2.22, 1.86, 1.26,
    ),
    "human_parts": (0.48, 12.48, 7.21, 11.81, 16.08, 10.35, 18.81),
}  # fmt: skip

recipe = Recipe(
    name="scenes_edge",
    summary="EfficientNet-Lite0 and a small DeMT, six tasks, 160x224",
    data=Data(name="scenes", options={"train": 480, "val": 48, "size": [160, 224], "cache": True}),
    tasks={
        "semseg": Semseg(classes=CLASSES),
        "depth": Depth(far_m=8.0),
        "normals": Normals(),
        "edge": Edge(),
        "human_parts": HumanParts(),
        "sal": Saliency(),
    },
    size=(160, 224),
    map_stride=2,
    network=narrow_demt(width=64, head_width=32).blank().model_copy(update={"weights": "zoo:nyud_edge"}),
    augment=Augment(scale=(1.0, 1.3)),
    training=Training(
        iterations=500, batch=8, optimizer="adamw", rate=4e-3, backbone_rate=0.25, schedule="one-cycle", warmup=0.1,
        weight_decay=0.02, ema=0.99, label_stride=2, validate_every=250, save_every=100,
        weights={"semseg": 1.0, "depth": 1.0, "normals": 1.5, "edge": 10.0, "human_parts": 2.0, "sal": 6.0},
        losses=Losses(depth_square=0.5, class_weights=CLASS_WEIGHTS),
    ),
    compression=Compression(calibration=64, iterations=60, rate=1e-4),
)  # fmt: skip
