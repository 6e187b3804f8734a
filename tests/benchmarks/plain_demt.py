"""DeMT written the plain way, as its paper draws it: what edgemtl's network is measured against.

Stages are enlarged, concatenated and projected by one linear layer; tokens are (B, h * w, C) in memory; attention is
torch's nn.MultiheadAttention, run the way the published code ran at one image (see edgemtl/models/demt.py): pixels are
its batch, tasks its sequence. No layout, no fused layer, no reordering. It takes the weights of edgemtl's DeMT.
"""

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models.demt import DeMT
from edgemtl.networks.backbones import Backbone

Operator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def by_gather(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution of x (B, C, h, w), every channel read at its own offsets (B, 2 * C, h, w): by four gathers."""
    batch, channels, h, w = x.shape
    dy, dx = offset.reshape(batch, channels, 2, h, w).unbind(2)
    y = torch.arange(h, device=x.device).view(-1, 1) + dy
    x_ = torch.arange(w, device=x.device) + dx
    top, left = y.floor(), x_.floor()
    flat = x.flatten(2)
    total = torch.zeros_like(x)
    for row in (top, top + 1):
        for column in (left, left + 1):
            share = (1 - (y - row).abs()) * (1 - (x_ - column).abs())
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            index = row.clamp(0, h - 1).long() * w + column.clamp(0, w - 1).long()
            total = total + flat.gather(2, index.flatten(2)).view_as(x) * share * inside
    return F.conv2d(total, weight, bias)


def by_grid_sample(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same by torch's bilinear sampling, with every channel an image of its own."""
    batch, channels, h, w = x.shape
    dy, dx = offset.reshape(batch * channels, 2, h, w).unbind(1)
    y = torch.arange(h, device=x.device).view(-1, 1) + dy
    x_ = torch.arange(w, device=x.device) + dx
    grid = torch.stack([(2 * x_ + 1) / w - 1, (2 * y + 1) / h - 1], -1)
    read = F.grid_sample(x.reshape(batch * channels, 1, h, w), grid, mode="bilinear", align_corners=False)
    return F.conv2d(read.reshape_as(x), weight, bias)


def by_torchvision(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same by torchvision's operator; RuntimeError and the like where that does not work."""
    from torchvision.ops import deform_conv2d

    return deform_conv2d(x, offset, weight, bias)


class Deform(nn.Module):
    def __init__(self, width: int, operator: Operator):
        super().__init__()
        self.operator = operator
        self.point = nn.Conv2d(width, 18, 3, padding=1)
        self.mix = nn.Conv2d(18, 2 * width, 3, padding=1, groups=2)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        step = torch.arange(-1.0, 2.0, device=x.device)
        rows = torch.arange(1.0, h + 1, device=x.device).view(1, h, 1) + step.repeat_interleave(3).view(9, 1, 1)
        columns = torch.arange(1.0, w + 1, device=x.device).view(1, 1, w) + step.repeat(3).view(9, 1, 1)
        position = torch.cat([rows.expand(9, h, w), columns.expand(9, h, w)])
        return self.operator(x, self.mix(self.point(x) + position), self.project.weight, self.project.bias)


class Mixer(nn.Module):
    def __init__(self, width: int, operator: Operator):
        super().__init__()
        self.channel = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))
        self.spatial = nn.Sequential(Deform(width, operator), nn.GELU(), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel(x)
        return x + self.spatial(x)


class PlainDeMT(nn.Module):
    """{task: raw (B, channels, h, w)} of images (B, 3, H, W), as edgemtl's DeMT with the paper's options gives it."""

    def __init__(self, backbone: Backbone, tasks: dict[str, int], width: int, operator: Operator, heads: int = 4):
        super().__init__()
        total = sum(backbone.channels)
        self.backbone = backbone
        self.fusion = nn.Sequential(nn.Linear(total, width), nn.LayerNorm(width))
        self.mixers = nn.ModuleDict({t: Mixer(width, operator) for t in tasks})
        self.interaction = nn.MultiheadAttention(width, heads)
        self.project = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.queries = nn.ModuleDict({t: nn.MultiheadAttention(width, heads) for t in tasks})
        self.projects = nn.ModuleDict({t: nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for t in tasks})
        self.heads = nn.ModuleDict(
            {
                t: nn.Sequential(
                    nn.Conv2d(width, total // 8, 3, padding=1, bias=False),
                    nn.BatchNorm2d(total // 8),
                    nn.ReLU(),
                    nn.Conv2d(total // 8, channels, 1),
                )
                for t, channels in tasks.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(image)
        size = maps[0].shape[2:]
        enlarged = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps]
        fused = self.fusion(torch.cat(enlarged, 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        tokens = {t: mixer(fused).flatten(2).transpose(1, 2) for t, mixer in self.mixers.items()}  # (B, h * w, C)

        together = torch.cat(list(tokens.values()), 1)  # (B, T * h * w, C)
        alone = together.reshape(1, -1, together.shape[2])
        mixed = self.interaction(alone, alone, alone, need_weights=False)[0].view_as(together)
        keys = self.project(mixed).unflatten(1, (len(tokens), -1)).transpose(0, 1).flatten(1, 2)  # (T, B * h * w, C)

        raw = {}
        for t, x in tokens.items():
            query = x.reshape(1, -1, x.shape[2])
            found = self.queries[t](query, keys, keys, need_weights=False)[0].view_as(x)
            x = x + self.projects[t](found)
            raw[t] = self.heads[t](x.transpose(1, 2).unflatten(2, size))
        return raw


def plain(network: DeMT, tasks: dict[str, int], backbone: Backbone, operator: Operator) -> PlainDeMT:
    """A plain network with the weights of `network`, whose options must be the paper's; `backbone` is made anew."""
    made = PlainDeMT(backbone, tasks, network.width, operator)
    made.load_state_dict(_renamed(network.state_dict(), list(tasks)))
    return made


def _renamed(ours: dict[str, Tensor], tasks: list[str]) -> dict[str, Tensor]:
    state = {key: value for key, value in ours.items() if key.startswith("backbone.")}

    def matrix(key: str) -> Tensor:
        return ours[key].flatten(1) if ours[key].ndim == 4 else ours[key]

    def attention(into: str, parts: list[str], out: str) -> None:
        for kind in ("weight", "bias"):
            state[f"{into}.in_proj_{kind}"] = torch.cat([matrix(f"{part}.{kind}") for part in parts])
            state[f"{into}.out_proj.{kind}"] = matrix(f"{out}.out.{kind}")

    stages = len([key for key in ours if key.startswith("fusion.stages.") and key.endswith(".weight")])
    state["fusion.0.weight"] = torch.cat([matrix(f"fusion.stages.{i}.weight") for i in range(stages)], 1)
    state["fusion.0.bias"] = ours["fusion.stages.0.bias"]
    state |= {f"fusion.1.{kind}": ours[f"fusion.norm.{kind}"] for kind in ("weight", "bias")}
    attention("interaction", ["interaction.query_key", "interaction.value"], "interaction")
    names = {"interaction.project.": "project.0.", "interaction.norm.": "project.1."}
    for t in tasks:
        attention(
            f"queries.{t}", [f"queries.{t}.query", f"projections.{t}.key", f"projections.{t}.value"], f"queries.{t}"
        )
        names |= {
            f"queries.{t}.project.": f"projects.{t}.0.", f"queries.{t}.norm.": f"projects.{t}.1.",
            f"mixers.{t}.0.spatial.0.offsets.": f"mixers.{t}.spatial.0.",
            f"mixers.{t}.0.spatial.0.weight": f"mixers.{t}.spatial.0.project.weight",
            f"mixers.{t}.0.spatial.0.bias": f"mixers.{t}.spatial.0.project.bias",
            f"mixers.{t}.0.": f"mixers.{t}.",
            f"heads.{t}.conv.": f"heads.{t}.", f"heads.{t}.logits.": f"heads.{t}.3.",
        }  # fmt: skip
    for key in ours:
        for start, other in names.items():
            if key.startswith(start):
                state[other + key.removeprefix(start)] = matrix(key) if other.startswith("project") else ours[key]
                break
    return state
