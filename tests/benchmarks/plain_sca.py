"""SCA-MTL's heads the plain way, as its paper draws them: what edgemtl's network is measured against.

The rest of edgemtl's training form computes what the published code does, product by product. A head there asks anew
for every coarser scale, enlarges everything that it has gathered to the finest scale's size, and takes one wide 1x1
convolution of all.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models import sca as ours


class PlainHead(nn.Module):
    """A task's raw output (B, outputs, h, w) from its maps, finest first, with the weights of edgemtl's head."""

    def __init__(self, head: ours.CrossScaleHead):
        super().__init__()
        self.queries, self.sources, self.narrow, self.attend = head.queries, head.sources, head.narrow, head.attend
        stages = [stage for stage in head.fusion.stages if isinstance(stage, nn.Conv2d)]
        inputs = sum(stage.in_channels for stage in stages)
        self.fusion = nn.Conv2d(inputs, stages[0].out_channels, 1)
        self.fusion.weight.data.copy_(torch.cat([stage.weight for stage in stages], 1))
        assert self.fusion.bias is not None and stages[0].bias is not None
        self.fusion.bias.data.copy_(stages[0].bias)
        self.norm, self.logits = head.fusion.norm, head.logits

    def forward(self, maps: list[Tensor], stage: Tensor) -> Tensor:
        size, gathered = maps[0].shape[2:], []
        for k, (query, source) in enumerate(zip(self.queries, self.sources, strict=True)):
            parts = []
            for narrow, x in zip(self.narrow[k], maps[k + 1 :], strict=True):  # type: ignore[arg-type]
                parts += [maps[k], self.attend[k](query(maps[k]), [source(narrow(x))])]
            gathered.append(torch.cat(parts, 1))
        enlarged = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in [*gathered, maps[-1]]]
        raw: Tensor = self.logits(F.relu(self.norm(self.fusion(torch.cat(enlarged, 1)))))
        return raw


def plain(network: ours.SCA) -> ours.SCA:
    """A copy of the published network whose heads are plain."""
    made = copy.deepcopy(network)
    for task, head in made.heads.items():
        assert isinstance(head, ours.CrossScaleHead) and head.detail is None
        made.heads[task] = PlainHead(head)
    return made
