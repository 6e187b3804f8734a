"""NYUD-v2 on a phone or a Jetson: EfficientNet-Lite0 and a slim SCA-MTL decoder at 240x320, four tasks.

Slimmed from the published decoder, which for four tasks has 52 million parameters and most of its products at stride 4.
The scales are strides 8, 16 and 32, with 32, 48 and 64 channels; the first stage comes back before the logits, where
the heads have 48 channels instead of 1080. 3x3 convolutions are separable. In the exchange between tasks each has one
projection of queries and one of keys and values at each scale, not one for each of the twelve pairs, and its own map
enters the reduction once. Windows are 5x5, which divide the maps of strides 8 and 16 evenly, with 4 heads.
"""

from edgemtl.recipes._nyud import edge, small_network

recipe = edge(
    name="nyud_sca_edge",
    summary="EfficientNet-Lite0 and a slim SCA-MTL at 240x320",
    network=small_network(
        "sca", strides=(8, 16, 32), widths=(32, 48, 64), heads=4, window=5, separable=True, pairwise=False,
        head_width=48,
    ),
    # In int8 all that a concatenation puts side by side shares one scale, and the answers of an exchange have
    # another range than the map that they come beside: with one scale for both depth's RMSE was half as high again.
    keep_float=(r"(^|/)cat/",),
)  # fmt: skip
