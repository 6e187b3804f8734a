"""Where the exact form of a network needs a quantizer that no operation's hook can hold."""

from torch import Tensor, nn


class Point(nn.Module):
    """A place in a module where the exact form needs a quantizer; without one it gives back what it gets.

    `scale` fixes the quantizer's; otherwise it is calibrated.
    """

    def __init__(self, scale: float | None = None):
        super().__init__()
        self.scale = scale
        self.quantizer: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.quantizer(x)
