"""NYUD-v2 on a phone or a Jetson: EfficientNet-Lite0 and a narrow DeMT decoder at 240x320, four tasks."""

from edgemtl.recipes._nyud import edge, narrow_demt

recipe = edge(
    name="nyud_edge",
    summary="EfficientNet-Lite0 and a narrow DeMT at 240x320",
    network=narrow_demt(),
)
