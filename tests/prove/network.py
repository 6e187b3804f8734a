"""A small network in the exact int8 form, or one that overflows: what the judges are tried on.

Scales are powers of two, biases multiples of (input scale * weight scale), the frame enters as frame - 128, and what
follows the last convolution is exact as well: enlarging by two (weights k/16), argmax, clamp.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl import tasks
from edgemtl.device.predictor import smooth_frames
from edgemtl.ground import registry
from edgemtl.networks.prepare import Activate
from edgemtl.quantization import quantizers
from edgemtl.records import ledger
from edgemtl.records.target import Original
from tests import toy

SIZE = (64, 80)
TASKS = {"semseg": tasks.build("semseg", {"classes": toy.CLASSES}), "depth": tasks.build("depth")}
LAYERS = ("stem", "deep", "point", "wide", *TASKS)
WIDTH = 32  # channels; enough that a sum of products needs more than 16 bits


class Trunk(nn.Module):
    """Strided, depthwise, 1x1 and 3x3 convolutions, a sum, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.deep = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, groups=WIDTH)
        self.point = nn.Conv2d(WIDTH, WIDTH, 1)
        self.wide = nn.Conv2d(WIDTH, WIDTH, 3, 2, 1)
        for name, task in TASKS.items():
            self.add_module(name, nn.Conv2d(WIDTH, task.channels, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.stem(image))
        x = x + self.point(F.relu(self.deep(x)))
        x = F.relu(self.wide(x))
        return {name: self.get_submodule(name)(x) for name in TASKS}


class Centre(nn.Module):
    """The frame's integers 0..255 as -128..127."""

    def forward(self, frame: Tensor) -> Tensor:
        return frame - 128


class Deployed(nn.Module):
    """forward(frame (1, 3, H, W), 0..255) -> {task: map}, maps at half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise, self.network, self.activate = Centre(), Trunk(), Activate((SIZE[0] // 2, SIZE[1] // 2))

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        return self.activate(self.network(self.normalise(frame)))


def deployed(bits: int = 7) -> Deployed:
    """The same random weights each time, as codes of that many bits; pairs of products overflow 16 bits with 8."""
    torch.manual_seed(5)
    made = Deployed().eval().requires_grad_(False)
    largest: dict[str, Tensor] = {}
    modules = {name: made.network.get_submodule(name) for name in LAYERS}
    for name, module in modules.items():
        if bits == 8:  # no weight is small: nearly every pair of large activations overflows
            module.weight.copy_(module.weight.sign() * module.weight.abs().clamp(min=module.weight.abs().max() * 0.7))
        module.register_forward_pre_hook(lambda _, args, name=name: largest.__setitem__(name, args[0].abs().max()))
    for frame in frames():
        made(toy.batch(frame))
    for name, module in modules.items():
        module._forward_pre_hooks.clear()
        weight = _power(module.weight.abs().amax((1, 2, 3)) / ledger.CODES[bits][1])
        code = quantizers.codes(module.weight, weight, 0, bits)
        module.weight.copy_(quantizers.decode(code, weight, 0))
        step = torch.tensor(1.0) if name == "stem" else _power(largest[name] / 127)
        module.bias.copy_((module.bias / (weight * step)).round() * (weight * step))
        for port, quantizer in (
            (1, quantizers.FakeQuantize(weight, 0, "weight", f"{name}.weight", bits)),
            (0, quantizers.FakeQuantize(step, None, "activation", f"{name}/conv2d/0:0")),
        ):
            quantizers.insert(made.network, f"pre_hooks.{name}/conv2d/0__{port}.0", quantizer)
    return made.eval()


def _power(scale: Tensor) -> Tensor:
    """The next power of two that is not smaller, so that nothing is clipped."""
    return torch.exp2(torch.ceil(torch.log2(scale)))


def frames(count: int = 3) -> list[np.ndarray]:
    """Smooth random uint8 RGB frames (H, W, 3) with full contrast."""
    return smooth_frames(SIZE, count)


def convert(folder: Path, target: str, bits: int = 7) -> Path:
    """An int8 artifact of the network, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = registry.load("targets", target).target
    names = chosen.convert(Original(deployed(bits), SIZE, TASKS, "int8"), folder)
    toy.write_manifest(folder, names, target=target, size=SIZE, tasks=TASKS)
    return folder
