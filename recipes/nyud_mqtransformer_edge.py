"""NYUD-v2 on a phone or a Jetson: EfficientNet-Lite0 and a narrow MQTransformer decoder at 240x320, four tasks.

Slimmed from the published decoder, which takes 64 queries a task over every stride-4 pixel at width 256: fusion,
attention and decoder at stride 8 (a quarter of the pixels; the first stage comes back before the heads), width 96,
16 queries, keys of 8 channels a head, hidden layers of 96. What runs per pixel has ReLU and BatchNorm, which fold into
its convolutions; only the 64 queries keep LayerNorm. Fewer paths are dropped: the training is short.
"""

from edgemtl.recipes._nyud import edge, small_network

recipe = edge(
    name="nyud_mqtransformer_edge",
    summary="EfficientNet-Lite0 and a narrow MQTransformer at 240x320",
    network=small_network(
        "mqtransformer", width=96, queries=16, heads=4, key_width=32, pixel_hidden=96, head_width=48, fuse_stride=8,
        norm="batch", activation="relu", keep_query_key=False, drop=0.0, task_drop=0.1,
    ),
)  # fmt: skip
