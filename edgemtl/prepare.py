"""The deployment form of a trained network: an exact rewriting, which `compress` quantizes and every target converts.

BatchNorms are folded into the layers before them, a paper's own linear chains are merged and its image-independent
maps made constant (`merge` of a network's module gives what takes its place), activations and argmax come into the
graph, and the camera's 0..255 frame goes in.
"""

import copy
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from edgemtl import checkpoint, models, reference
from edgemtl.recipe import Recipe
from edgemtl.run import Run
from edgemtl.tasks import Size

Maps = dict[str, Tensor]


def _classes(raw: Tensor) -> Tensor:
    return raw.argmax(1).to(torch.int32)


def _saliency(raw: Tensor) -> Tensor:
    return raw.softmax(1)[:, 1] if raw.shape[1] == 2 else raw[:, 0].sigmoid()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "semseg": _classes,
    "human_parts": _classes,
    "depth": lambda raw: raw[:, 0].clamp(min=0),
    "normals": lambda raw: F.normalize(raw, dim=1),
    "edge": lambda raw: raw[:, 0].sigmoid(),
    "sal": _saliency,
}


class Normalise(nn.Module):
    """ImageNet normalisation of an RGB frame in 0..255."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(models.MEAN)[None, :, None, None])
        self.register_buffer("scale", 1 / torch.tensor(models.STD)[None, :, None, None])

    def forward(self, frame: Tensor) -> Tensor:
        return (frame - self.mean) * self.scale


class Activate(nn.Module):
    """Maps at `size` from raw outputs: class ids, metres, unit vectors, probabilities."""

    def __init__(self, size: Size):
        super().__init__()
        self.size = size

    def forward(self, raw: dict[str, Tensor]) -> Maps:
        return {
            task: ACTIVATIONS[task](F.interpolate(x, self.size, mode="bilinear", align_corners=False))
            if x.shape[-2:] != self.size else ACTIVATIONS[task](x)
            for task, x in raw.items()
        }  # fmt: skip


class Deployed(nn.Module):
    """forward(frame (B, 3, H, W), RGB in 0..255) -> {task: map}; `raw` stops before the activations."""

    is_exact = False  # whether it is in the form of edgemtl.exact

    def __init__(self, network: nn.Module, size: Size, map_stride: int):
        super().__init__()
        self.normalise: nn.Module = Normalise()
        self.network = network
        self.stride = map_stride
        self.activate = Activate((-(-size[0] // map_stride), -(-size[1] // map_stride)))

    def raw(self, frame: Tensor) -> dict[str, Tensor]:
        made: dict[str, Tensor] = self.network(self.normalise(frame))
        return made

    def forward(self, frame: Tensor) -> Maps:
        maps: Maps = self.activate(self.raw(frame))
        return maps


def prepare(network: nn.Module, recipe: Recipe) -> Deployed:
    """The deployment form of a copy of `network`, in eval mode, for frames of the recipe's size."""
    deployed = Deployed(copy.deepcopy(network), recipe.size, recipe.map_stride).eval().requires_grad_(False)
    frame = torch.zeros(1, 3, *recipe.size)
    inputs = fold_norms(deployed, frame)
    for module, shapes in reversed(inputs.items()):  # inner modules ran to their end, and so merge, before outer ones
        merge: Callable[..., nn.Module] | None = getattr(module, "merge", None)
        if merge is not None:
            replace(deployed, module, merge(*shapes))
    return deployed


def shapes(network: nn.Module, example: Tensor) -> dict[nn.Module, list[torch.Size]]:
    """The shapes that each module takes, of tensors or as arguments themselves, in the order of their first runs."""
    found: dict[nn.Module, list[torch.Size]] = {}

    def before(module: nn.Module, inputs: tuple[object, ...]) -> None:
        taken = [x.shape if isinstance(x, Tensor) else x for x in inputs]
        found.setdefault(module, [torch.Size(shape) for shape in taken if isinstance(shape, tuple)])

    handles = [module.register_forward_pre_hook(before) for module in network.modules()]
    with torch.no_grad():
        network(example)
    for handle in handles:
        handle.remove()
    return found


def fold_norms(network: nn.Module, example: Tensor) -> dict[nn.Module, list[torch.Size]]:
    """Folds, in place, every BatchNorm whose input is a convolution's output; gives back each module's input shapes.

    Who follows whom is read off one run. Exact where the norm is the output's only reader, because a BatchNorm in eval
    mode is an affine map of the channels.
    """
    made_by: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept so that its id stays its own
    layers: dict[nn.BatchNorm2d, nn.Module] = {}  # a shared pair runs many times and is folded once
    shapes: dict[nn.Module, list[torch.Size]] = {}

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[module] = [x.shape for x in inputs if isinstance(x, Tensor)]
        if isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made_by:
            layers[module] = made_by[id(inputs[0])][0]

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 4:
            made_by[id(output)] = (module, output)

    handles = [m.register_forward_pre_hook(before) for m in network.modules()]
    handles += [m.register_forward_hook(after) for m in network.modules()]
    with torch.no_grad():
        network(example)
    for handle in handles:
        handle.remove()
    for norm, layer in layers.items():
        assert norm.running_mean is not None and norm.running_var is not None
        assert isinstance(layer.weight, Tensor) and (layer.bias is None or isinstance(layer.bias, Tensor))
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        replace(network, norm, getattr(norm, "act", nn.Identity()))  # timm keeps the activation inside its norm
    return shapes


def replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts `new` wherever a module of `root` has `old`."""
    for parent in root.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


def load_float(run: Path | Run) -> Deployed:
    """The deployment form of a run's best float weights; UsageError where there are none or they do not fit."""
    run = Run(run)
    recipe = run.recipe
    network = models.build(recipe.network.blank(), recipe.tasks)
    checkpoint.read_weights(run.weights("float"), network)
    return prepare(network, recipe)


def load_reference(recipe: Recipe, file: Path) -> Deployed:
    """The deployment form of a recipe's network with its authors' weights; UsageError where they do not fit."""
    network = models.build(recipe.network.blank(), recipe.tasks)
    reference.load(network, recipe, file)
    return prepare(network, recipe)
