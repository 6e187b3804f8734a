"""A network in torch as a session like any other: a frame of its size in, every task's map out."""

import numpy as np
import torch
from torch import Tensor, nn

from edgemtl.ground.errors import UsageError
from edgemtl.records.target import How, Session


class TorchSession(Session):
    """A network in its deployment form, eager, in eval mode, on `device` (default: the GPU where there is one)."""

    how: How = "executed"
    float32 = True

    def __init__(self, network: nn.Module, device: str | torch.device | None = None, weights: str = "") -> None:
        try:
            self.where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.network = network.to(self.where).eval()
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
            raise UsageError(f"torch has no device {str(device)!r}: {str(error).splitlines()[0]}") from None
        threads = f"{torch.get_num_threads()} threads" if self.where.type == "cpu" else str(self.where)
        self.device = ", ".join(filter(None, ("torch eager", weights, threads)))

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            maps: dict[str, Tensor] = self.network(one(frame, self.where))
            return {task: map[0].cpu().numpy() for task, map in maps.items()}


class InOrder(nn.Module):
    """A deployed network as converters take it: its maps are a tuple, in the order of `names`."""

    def __init__(self, deployed: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.deployed, self.names = deployed, names

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        maps = self.deployed(frame)
        return tuple(maps[name] for name in self.names)


class Camera(InOrder):
    """The same of what a camera gives: uint8 frames (1, H, W, 3)."""

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        return super().forward(frame.permute(0, 3, 1, 2).float())


def one(frame: np.ndarray, where: torch.device | str = "cpu") -> Tensor:
    """A frame (H, W, 3) uint8 as a deployed network takes it: (1, 3, H, W) float32, 0..255."""
    return torch.from_numpy(frame).to(where).permute(2, 0, 1)[None].float()


def several(frames: Tensor) -> Tensor:
    """(B, 3, H, W) float32 0..255, channels last in memory, of uint8 frames (B, H, W, 3)."""
    return frames.permute(0, 3, 1, 2).float()
