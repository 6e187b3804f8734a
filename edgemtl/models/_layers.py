"""Layers that several of the papers' decoders share: fusing the stages, restoring detail, a task's head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.chains import affine, chain


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm2d(kind: str, channels: int) -> nn.Module:
    """LayerNorm over channels ("layer") or BatchNorm ("batch"); ValueError for another kind."""
    kinds = {"layer": LayerNorm2d, "batch": nn.BatchNorm2d}
    if kind not in kinds:
        raise ValueError(f"norm={kind!r}: layer or batch")
    return kinds[kind](channels)


class Fusion(nn.Module):
    """One map (B, width, h, w) of the stages': each projected by its part of a linear layer, resized and summed."""

    def __init__(self, channels: list[int], width: int, norm: str | None):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(c, width, 1, bias=i == 0) for i, c in enumerate(channels))
        self.norm = norm2d(norm, width) if norm else nn.Identity()

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        total = None
        for stage, x in zip(self.stages, maps):
            if x.shape[2] * x.shape[3] > size[0] * size[1]:  # resizing and projecting commute: do the smaller first
                x = stage(resize(x, size))
            else:
                x = resize(stage(x), size)
            total = x if total is None else total + x
        return self.norm(total)

    def merge(self, *shapes: torch.Size) -> nn.Module:
        if isinstance(self.norm, nn.BatchNorm2d):  # resizing keeps constants: the norm moves into every stage's layer
            self.stages = nn.ModuleList(
                chain(stage, affine(self.norm, shift=i == 0)) for i, stage in enumerate(self.stages)
            )
            self.norm = nn.Identity()
        return self


class Detail(nn.Module):
    """Brings a coarse map (B, width, h, w) to the first stage's size and adds that stage: (B, head_width, H/4, W/4)."""

    def __init__(self, width: int, stage: int, head_width: int):
        super().__init__()
        self.coarse = nn.Sequential(nn.Conv2d(width, head_width, 1, bias=False), nn.BatchNorm2d(head_width))
        self.fine = nn.Sequential(nn.Conv2d(stage, head_width, 1, bias=False), nn.BatchNorm2d(head_width))

    def forward(self, x: Tensor, stage: Tensor) -> Tensor:
        return F.relu(resize(self.coarse(x), (stage.shape[2], stage.shape[3])) + self.fine(stage))


class Head(nn.Module):
    """A task's raw output (B, channels, h, w) at its map's resolution."""

    def __init__(self, width: int, head_width: int, channels: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, head_width, 3, padding=1, bias=False), nn.BatchNorm2d(head_width), nn.ReLU()
        )
        self.logits = nn.Conv2d(head_width, channels, 1)
        nn.init.normal_(self.logits.weight, std=0.01)
        assert self.logits.bias is not None
        nn.init.zeros_(self.logits.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.conv(x))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The map (B, C, h, w) at another size, bilinear."""
    return x if x.shape[2:] == size else F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
