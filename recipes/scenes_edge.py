"""All six tasks on rendered rooms in minutes: MobileNetV4 from scratch and a small DeMT decoder at 160x224."""

from edgemtl.data.scenes import CLASSES
from edgemtl.recipe import Augment, Compression, Data, Losses, Network, Recipe, Training
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.edge import Edge
from edgemtl.tasks.human_parts import HumanParts
from edgemtl.tasks.normals import Normals
from edgemtl.tasks.sal import Saliency
from edgemtl.tasks.semseg import Semseg


def recipe() -> Recipe:
    return Recipe(
        name="scenes_edge",
        summary="MobileNetV4 and a small DeMT, six tasks, 160x224",
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
        network=Network(
            method="demt",
            backbone="mobilenetv4_conv_small",
            options={
                "width": 64, "key_width": 32, "heads": 4, "share_keys": True, "offset_groups": 8, "offset_gain": 0.1,
                "head_width": 32, "fuse_stride": 8, "norm": "batch", "activation": "relu", "keep_query_key": False,
            },
        ),
        augment=Augment(scale=(1.0, 1.3)),
        training=Training(
            iterations=600, batch=8, optimizer="adamw", rate=4e-3, schedule="one-cycle", warmup=0.1, weight_decay=0.02,
            ema=0.99, label_stride=2, validate_every=300, save_every=100,
            weights={"semseg": 1.0, "depth": 1.0, "normals": 1.5, "edge": 10.0, "human_parts": 3.0, "sal": 3.0},
            losses=Losses(depth_square=0.5),
        ),
        compression=Compression(calibration=64, iterations=40, rate=1e-4),
    )  # fmt: skip
