"""The baseline of nyud_edge: the same backbone, fusion and heads without exchange between tasks (or one task alone)."""

from edgemtl.recipes._nyud import edge, small_network

recipe = edge(
    name="nyud_fcn_edge",
    summary="EfficientNet-Lite0 and plain heads at 240x320",
    network=small_network("fcn", width=96, head_width=48, fuse_stride=8),
)
