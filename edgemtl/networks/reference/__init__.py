"""Published checkpoints in our networks: one file per paper says which of the authors' tensors each of ours is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError, unknown
from edgemtl.networks import checkpoint
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.pieces import Piece, load_pieces
from edgemtl.networks.reference import _pickles
from edgemtl.records.recipe import Recipe

BACKBONES = {
    "hrnet18s": "hrnet_w18_small_v2",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
}


class Reference(nn.Module):
    """A published network in eval mode: raw outputs {task: (B, C, H, W)} at the size of the image (B, 3, H, W)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        size = image.shape[2:]
        raw = self.network(image)
        return {task: F.interpolate(x, size, mode="bilinear", align_corners=False) for task, x in raw.items()}


def from_reference(method: str, backbone: str, tasks: dict[str, int], state_dict: Mapping[str, Any]) -> Reference:
    """The published network with the authors' weights; its input is an ImageNet-normalised image.

    `method` is a file of this folder. `tasks` gives the output channels of each task under the authors' name for it
    (semseg, depth, normals, edge, human_parts, sal), in the order of their configuration: they number some layers by
    it. `state_dict` is theirs, or a Lightning checkpoint that holds one; widths and depths are read off it. Results are
    those of their code for one image, whatever the batch. UsageError for an unknown name, or naming the first missing
    and the first unexpected key.
    """
    layout = registry.load("networks.reference", method)
    if backbone not in BACKBONES:
        raise unknown("reference backbone", backbone, BACKBONES)
    if not tasks:
        raise UsageError("tasks is empty; it needs at least one {task: channels}")
    state = tensors(state_dict)
    try:
        network = layout.blank(Backbone(BACKBONES[backbone]), tasks, state)
    except ValueError as error:
        raise UsageError(f"state_dict is of no {method}: {error}") from None
    what = f"{method} with {backbone} and tasks {', '.join(tasks)}"
    load_pieces(network, layout.finder(network, tasks), state, what, layout.DEAD)
    return Reference(network).eval()


def load(network: nn.Module, recipe: Recipe, path: Path) -> None:
    """Fills a recipe's network with the weights in a file: one of our own, or a checkpoint of its method's authors.

    Ours are float.safetensors; theirs any file that torch.save or Lightning wrote, in which nothing is executed.
    UsageError naming the first missing and the first unexpected key, or the first of another shape.
    """
    if path.suffix == ".safetensors":
        checkpoint.read_weights(path, network)
        return
    method, tasks = recipe.network.method, {name: task.channels for name, task in recipe.tasks.items()}
    layout = registry.load("networks.reference", method)
    find = layout.finder(network, tasks)

    def found(ours: list[str]) -> Piece:
        try:
            piece: Piece = find(ours)
        except (AssertionError, KeyError):
            raise UsageError(f"the recipe's network has {'.'.join(ours)!r}, the published {method} has not") from None
        return piece

    state = tensors(_pickles.read(path))
    try:
        load_pieces(network, found, state, f"{recipe.name}'s network", layout.DEAD)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state_dict, or of a checkpoint that holds one, without the prefix that DataParallel adds."""
    state = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content)
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
