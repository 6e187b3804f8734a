"""The exact form of a deployed network, which `compress` quantizes where the recipe asks for exactness.

The form computes nearly, but not quite, the same function: the frame's borders are padded with mid-grey instead of the
mean, sampling positions are whole eighths or quarters of a pixel, and resizing by an odd factor has weights of 1/64.
Fine-tuning makes up for that. In this form every value between camera and maps is a multiple of a known power of two,
or is rounded to such a multiple in a way that float32 arithmetic cannot miss. `proof` shows it.

A module whose deployment form cannot be exact has a method `exact`, which gives its replacement. A module with
constants that follow from scales has a method `settle`.

What became exact later keeps its place in files from before: such a module's `exact_form` is above theirs.
"""

from typing import Any, Callable

import torch
from torch import Tensor, nn

from edgemtl import objectives
from edgemtl.models import MEAN, STD
from edgemtl.networks.chains import scaling
from edgemtl.networks.points import Point
from edgemtl.networks.prepare import Activate, Deployed, Maps, replace, shapes
from edgemtl.networks.watching import watching
from edgemtl.records.recipe import Recipe
from edgemtl.tasks import Size

FORM = 2  # 1 left LayerNorms of maps, GELU and HRNet's odd sizes in float
GREY, STEP = 128.0, 2.0**-6  # the camera's 0..255 becomes -2..2 in 256 steps


class Centre(nn.Module):
    """The camera's RGB frame 0..255 on the int8 grid: (frame - 128) / 64."""

    def forward(self, frame: Tensor) -> Tensor:
        return (frame - GREY) * STEP


class ExactActivate(Activate):
    """Maps at `size` from raw outputs, the same bits everywhere; `channels` of the tasks whose heads leave codes.

    Each task's objective says how: see its `exact`, and its `lift`, which follows from the scale of the task's codes.
    """

    def __init__(self, size: Size, channels: dict[str, int]):
        super().__init__(size)
        self.tasks = list(channels)
        for task, count in channels.items():
            self.register_buffer(_lift(task), objectives.of(task).lift(count))

    def forward(self, raw: dict[str, Tensor]) -> Maps:
        return {
            task: objectives.of(task).exact(x, getattr(self, _lift(task), None), self.resized)
            for task, x in raw.items()
        }

    def settle(self, task: str, scale: Tensor) -> None:
        """Sets what follows from the scale of the task's raw codes."""
        lift: Tensor | None = getattr(self, _lift(task), None)
        if lift is not None:
            objectives.of(task).settle(lift, scale)


def _lift(task: str) -> str:
    return f"lift_{task}"


def rewrite(deployed: Deployed, recipe: Recipe, form: int = FORM) -> Deployed:
    """The exact form of a network in deployment form, in place, still without quantizers."""
    frame = torch.zeros(1, 3, *recipe.size)
    inputs = shapes(deployed, frame)
    _centre(deployed, frame)
    for module in reversed(list(inputs)):  # inner modules before outer ones
        exact: Callable[..., nn.Module] | None = getattr(module, "exact", None)
        if exact is not None and getattr(module, "exact_form", 1) <= form:
            replace(deployed, module, exact(*inputs[module]))
        elif isinstance(module, nn.BatchNorm2d) and form > 1:  # what `prepare` could not fold
            replace(deployed, module, scaling(module))
    channels = {}
    for task in recipe.tasks:
        head = _head(deployed.network, task)
        if head is not None and objectives.of(task).lift(head.logits.out_channels) is not None:
            head.leave = Point()
            channels[task] = head.logits.out_channels
    deployed.activate = ExactActivate(deployed.activate.size, channels)
    deployed.is_exact = True
    return deployed.eval()


def settle(deployed: Deployed) -> None:
    """Sets all constants that follow from the scales of quantizers."""
    for module in deployed.network.modules():
        if (settle := getattr(module, "settle", None)) is not None:
            settle()
    if isinstance(deployed.activate, ExactActivate):
        for task in deployed.activate.tasks:
            head = _head(deployed.network, task)
            if head is not None and isinstance(head.leave, Point) and not isinstance(head.leave.quantizer, nn.Identity):
                deployed.activate.settle(task, head.leave.quantizer.get_buffer("scale"))


def _centre(deployed: Deployed, frame: Tensor) -> None:
    """Moves the normalisation into the first layer, if a single convolution reads the image."""
    image = deployed.normalise(frame)
    readers: list[nn.Conv2d] = []

    def before(module: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and inputs[0] is image and isinstance(module, nn.Conv2d):
            readers.append(module)

    with torch.no_grad(), watching(deployed.network.modules(), before):
        deployed.network(image)
    if len(readers) != 1 or readers[0].groups != 1:
        return
    [stem] = readers
    mean, std = (torch.tensor(values, dtype=torch.float64)[None, :, None, None] for values in (MEAN, STD))
    weight = stem.weight.detach().double()
    moved = (weight * (GREY - mean) / std).sum((1, 2, 3))
    bias = moved if stem.bias is None else stem.bias.detach().double() + moved
    stem.weight = nn.Parameter((weight / std / STEP).float(), requires_grad=False)
    stem.bias = nn.Parameter(bias.float(), requires_grad=False)
    deployed.normalise = Centre()


def _head(network: nn.Module, task: str) -> Any:
    """The task's head: the module whose path ends in the task's name, with a Point `leave` behind its `logits`."""
    named = [module for path, module in network.named_modules() if path.endswith(f".{task}") or path == task]
    heads = [module for module in named if hasattr(module, "leave")]
    return heads[0] if len(heads) == 1 else None
