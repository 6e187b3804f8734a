"""What the NYUD-v2 recipes share: the four tasks, the papers' training, and that of the networks for devices."""

from functools import partial
from typing import Any

from edgemtl.data.nyud import TASKS
from edgemtl.recipes._papers import demt_recipe
from edgemtl.records.recipe import Augment, Compression, Data, Losses, Network, Recipe, Training
from edgemtl.tasks import Size

# A class' share of the training pixels to the power -1/3, scaled to a mean of 1 per pixel. otherprop is absent in some
# packagings: 1.
CLASS_WEIGHTS = (
    0.54, 0.72, 0.80, 0.99, 1.00, 1.13, 1.18, 1.19, 1.15, 1.20, 1.19, 1.36, 1.29, 1.50, 1.39, 1.50, 1.54, 1.61, 1.46,
    1.73, 1.58, 1.32, 1.83, 1.85, 1.82, 2.08, 2.15, 2.01, 2.00, 2.32, 2.22, 2.35, 2.26, 2.39, 2.30, 2.47, 2.50, 1.14,
    1.21, 1.00,
)  # fmt: skip

paper = partial(
    demt_recipe,
    data="nyud",
    tasks=TASKS,
    size=(425, 560),
    augment=Augment(scale=(0.5, 2.0)),
    weights={"semseg": 1.0, "depth": 1.0, "normals": 10.0, "edge": 50.0},
)


def small_network(method: str, backbone: str = "tf_efficientnet_lite0", **options: Any) -> Network:
    """A method's network on a backbone for devices, which begins with ImageNet's weights."""
    return Network(method=method, backbone=backbone, pretrained=True, options=options)


def narrow_demt(backbone: str = "tf_efficientnet_lite0", **options: Any) -> Network:
    """nyud_edge's network, or one like it: another backbone, other options."""
    usual = {
        "width": 96, "key_width": 32, "heads": 4, "share_keys": True, "offset_groups": 8, "offset_gain": 0.1,
        "head_width": 48, "fuse_stride": 8, "norm": "batch", "activation": "relu", "keep_query_key": False,
    }  # fmt: skip
    return small_network("demt", backbone, **(usual | options))


def edge(
    name: str,
    summary: str,
    network: Network,
    size: Size = (240, 320),
    keep_float: tuple[str, ...] = (),
) -> Recipe:
    """25 epochs with class-weighted segmentation, then int8 fine-tuning.

    No layer is left float for a budget: it would be the only one whose output is not the same bits everywhere.
    """
    return Recipe(
        name=name,
        summary=summary,
        data=Data(name="nyud"),
        tasks=TASKS,
        size=size,
        map_stride=2,
        network=network,
        augment=Augment(scale=(1.0, 1.7)),
        training=Training(
            iterations=2500, batch=8, optimizer="adamw", rate=2e-3, backbone_rate=0.2, schedule="one-cycle",
            warmup=0.1, weight_decay=0.02, ema=0.998, label_stride=2, validate_every=1250, save_every=200,
            weights={"semseg": 1.0, "depth": 1.0, "normals": 1.5, "edge": 10.0},
            losses=Losses(depth_square=0.5, class_weights={"semseg": CLASS_WEIGHTS}),
        ),
        compression=Compression(
            calibration=48, iterations=400, rate=1e-4, keep_float=keep_float,
        ),
    )  # fmt: skip
