"""NYUD-v2 at some three times nyud_edge's cost: EfficientNet-Lite2 and a wider DeMT decoder at 288x384, four tasks."""

from edgemtl.recipes._nyud import edge, narrow_demt

recipe = edge(
    name="nyud_edge_l",
    summary="EfficientNet-Lite2 and a wider DeMT at 288x384",
    network=narrow_demt("tf_efficientnet_lite2", width=128, head_width=64),
    size=(288, 384),
)
