"""NYUD-v2 on a phone or a Jetson: EfficientNet-Lite0 and a narrow DeMT decoder at 240x320, four tasks."""

from edgemtl.recipe import Network, Recipe
from edgemtl.recipes._nyud import edge


def recipe() -> Recipe:
    return edge(
        name="nyud_edge",
        summary="EfficientNet-Lite0 and a narrow DeMT at 240x320",
        network=Network(
            method="demt",
            backbone="tf_efficientnet_lite0",
            pretrained=True,
            options={
                "width": 96, "key_width": 32, "heads": 4, "share_keys": True, "offset_groups": 8, "offset_gain": 0.1,
                "head_width": 48, "fuse_stride": 8, "norm": "batch", "activation": "relu", "keep_query_key": False,
            },
        ),
        budget="",  # a float layer would be the only one that is not exact
    )  # fmt: skip
