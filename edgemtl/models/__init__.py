"""Networks: one file per paper. forward(image (B, 3, H, W), normalised) gives raw outputs {task: (B, C, h, w)}."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError, unknown
from edgemtl.networks.backbones import Backbone
from edgemtl.records.recipe import Network
from edgemtl.tasks import Task

MEAN = (123.675, 116.28, 103.53)  # of ImageNet, for RGB in 0..255
STD = (58.395, 57.12, 57.375)


def from_reference(method: str, backbone: str, tasks: dict[str, int], state_dict: Mapping[str, Any]) -> nn.Module:
    """The published network with its authors' weights: see edgemtl.networks.reference.from_reference."""
    from edgemtl.networks import reference  # its files import this package's

    return reference.from_reference(method, backbone, tasks, state_dict)


def build(network: Network, tasks: dict[str, Task]) -> nn.Module:
    """The network a recipe describes, with one head per task; UsageError for a wrong method, backbone or option."""
    method = registry.load("models", network.method).network
    allowed = [name for name in inspect.signature(method).parameters if name not in ("backbone", "tasks")]
    for option in network.options:
        if option not in allowed:
            raise unknown(f"{network.method} option", option, allowed)
    backbone = Backbone(network.backbone, network.pretrained, network.weights)
    try:
        built: nn.Module = method(backbone, {name: task.channels for name, task in tasks.items()}, **network.options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"network.options: {error}") from None
    return built
