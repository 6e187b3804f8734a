"""NYUD-v2 at a third of nyud_edge's cost: EfficientNet-Lite0 and half as wide a DeMT decoder at 192x256, four tasks."""

from edgemtl.recipes._nyud import edge, narrow_demt

recipe = edge(
    name="nyud_edge_s",
    summary="EfficientNet-Lite0 and a narrower DeMT at 192x256",
    network=narrow_demt(width=48, key_width=16, offset_groups=4, head_width=32),
    size=(192, 256),
)
