"""What small networks are made from: backbones of one layer a stage, and weights that hide no mistake."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stages(nn.Module):
    """A backbone of one layer a stage."""

    channels, strides = (4, 6, 8, 10), (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, c, s, s) for c, s in zip(self.channels, self.strides, strict=True))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [layer(image) for layer in self.layers]


class Trunk(Stages):
    """A backbone of one layer a stage, each on the one before."""

    def __init__(self) -> None:
        super().__init__()
        layers = zip((3, *self.channels), self.channels, (4, 2, 2, 2))
        self.layers = nn.ModuleList(nn.Conv2d(i, o, s, s) for i, o, s in layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(itertools.accumulate(self.layers, lambda x, layer: F.relu6(layer(x)), initial=image))[1:]


@torch.no_grad()
def stirred(network: nn.Module) -> nn.Module:
    """The network in eval mode with no parameter at a value that would hide a mistake."""
    for name, x in (*network.named_parameters(), *network.named_buffers()):
        if name.endswith(("gather", "spread")):
            pass  # which say what is summed and copied
        elif name.endswith("table"):
            x.normal_()
        elif x.ndim > 1:
            x.normal_(std=x[0].numel() ** -0.5)
        elif x.ndim == 1:
            x.copy_(torch.rand_like(x) + 0.5 if "var" in name else 0.3 * torch.randn_like(x))
    return network.eval()
