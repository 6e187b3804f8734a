"""The baseline of multi-task papers: a shared encoder and plain heads, no exchange between tasks.

With one task it is the single-task network that delta-m compares with. The defaults are the head of ATRC (Bruggemann et
al., ICCV 2021, https://arxiv.org/abs/2104.13874), which DeMT and MQTransformer compare with: all stages enlarged to
the first one's size and concatenated, then per task a 3x3 convolution, BatchNorm, ReLU and a 1x1 convolution.

What differs: with `width` the stages are projected and summed instead, which is what device variants of the papers'
networks do before their own layers; so a baseline can have everything of a network but its exchange between tasks.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from edgemtl.networks.backbones import Backbone
from edgemtl.networks.layers import Detail, Fusion, Head, resize


class FCN(nn.Module):
    """The network: backbone, fusion, heads.

    `width` 0 concatenates the stages instead of projecting them. `head_width` 0 is a quarter of the stages' sum. With
    `fuse_stride` 8 (and a width) the heads get the first stage added back at stride 4.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: dict[str, int],
        width: int = 0,
        head_width: int = 0,
        fuse_stride: int = 4,
        norm: Literal["layer", "batch"] = "batch",
    ):
        super().__init__()
        if fuse_stride not in backbone.strides:
            raise ValueError(f"fuse_stride={fuse_stride}: the backbone has strides {backbone.strides}")
        if fuse_stride != backbone.strides[0] and not width:
            raise ValueError(f"fuse_stride={fuse_stride} needs a width")
        out = head_width or sum(backbone.channels) // 4
        self.backbone = backbone
        self.fuse_at = backbone.strides.index(fuse_stride)
        self.fusion = Fusion(backbone.channels, width, norm) if width else None
        coarse = self.fuse_at > 0
        self.details = nn.ModuleDict({t: Detail(width, backbone.channels[0], out) for t in tasks} if coarse else {})
        into = out if coarse else width or sum(backbone.channels)
        self.heads = nn.ModuleDict({t: Head(into, out, c) for t, c in tasks.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(image)
        size = maps[self.fuse_at].shape[2:]
        fused = self.fusion(maps, size) if self.fusion else torch.cat([resize(x, size) for x in maps], 1)
        raw = {}
        for task, head in self.heads.items():
            raw[task] = head(self.details[task](fused, maps[0]) if task in self.details else fused)
        return raw


network = FCN
