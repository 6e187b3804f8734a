"""Layers that several of the papers' decoders share: fusing the stages, restoring detail, a task's head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.networks.chains import affine, chain
from edgemtl.networks.exact import Norm, Table
from edgemtl.networks.points import Point


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TokenNorm(LayerNorm2d):
    """A LayerNorm that the exact form has codes of."""

    def exact(self, *shapes: torch.Size) -> nn.Module:
        return Norm(self)


class MapNorm(TokenNorm):
    """The LayerNorm of the papers' decoders."""

    exact_form = 2


class Gelu(nn.GELU):
    """GELU, in the exact form a function of codes."""

    exact_form = 2

    def exact(self, *shapes: torch.Size) -> nn.Module:
        return Table(F.gelu)


def norm2d(kind: str, channels: int) -> nn.Module:
    """LayerNorm over channels ("layer") or BatchNorm ("batch"); ValueError for another kind."""
    kinds = {"layer": MapNorm, "batch": nn.BatchNorm2d}
    if kind not in kinds:
        raise ValueError(f"norm={kind!r}: layer or batch")
    return kinds[kind](channels)


class Fusion(nn.Module):
    """One map (B, width, h, w) of the stages': each projected by its part of a linear layer, resized and summed."""

    def __init__(self, channels: list[int], width: int, norm: str | None):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(c, width, 1, bias=i == 0) for i, c in enumerate(channels))
        self.norm = norm2d(norm, width) if norm else nn.Identity()
        self.resizes = nn.ModuleList(Resize() for _ in channels)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        total = None
        for stage, resize, x in zip(self.stages, self.resizes, maps):
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
        self.resize = Resize()

    def forward(self, x: Tensor, stage: Tensor) -> Tensor:
        return F.relu(self.resize(self.coarse(x), (stage.shape[2], stage.shape[3])) + self.fine(stage))


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
        self.leave: nn.Module = nn.Identity()  # in the exact form a Point, where what follows needs codes

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.logits(self.conv(x)))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The map (B, C, h, w) at another size, bilinear."""
    return x if x.shape[2:] == size else F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class Resize(nn.Module):
    """`resize` as a module; in the exact form its weights are multiples of 1/64 and what it enlarges are codes."""

    rows: Tensor | None
    columns: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.point: nn.Module = nn.Identity()
        self.register_buffer("rows", None)
        self.register_buffer("columns", None)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = self.point(x)
        if self.rows is not None:
            x = self.rows @ x
        if self.columns is not None:
            x = x @ self.columns
        return resize(x, size)

    def exact(self, source: torch.Size, target: torch.Size) -> nn.Module:
        height, width = source[2:]
        if height * width < target[0] * target[1]:
            self.point = Point()
        if _uneven(height, target[0]):
            self.register_buffer("rows", _matrix(height, target[0]), persistent=False)
        if _uneven(width, target[1]):
            self.register_buffer("columns", _matrix(width, target[1]).t().contiguous(), persistent=False)
        return self


def _uneven(source: int, target: int) -> bool:
    """Whether bilinear weights along an axis are no multiples of a small power of two.

    They are for enlarging by a power of two and for halving.
    """
    if source in (target, 2 * target):
        return False
    factor = target // source
    return target % source != 0 or factor & (factor - 1) != 0


def _matrix(source: int, target: int, steps: int = 64) -> Tensor:
    """The (target, source) matrix of bilinear resizing along one axis; weights are multiples of 1 / steps."""
    at = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
    low = at.floor().clamp(max=max(source - 2, 0)).long()
    part = ((at - low) * steps).round() / steps
    matrix = torch.zeros(target, source, dtype=torch.float64)
    matrix[torch.arange(target), low] += 1 - part
    matrix[torch.arange(target), (low + 1).clamp(max=source - 1)] += part
    return matrix.float()
