"""The deployment form of a trained network: an exact rewriting, which `compress` quantizes and every target converts.

It joins the branches that only training needs and folds BatchNorms into the layers before them. A module that has a
method `merge` gives its own replacement, such as one layer for a chain of linear ones, or a constant for a map that
does not depend on the image. The graph then begins with the camera's frame, 0..255, and ends with activations.
"""

import copy
from pathlib import Path
from typing import Any, Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgemtl import models, objectives
from edgemtl.ground.errors import CheckFailed
from edgemtl.networks import checkpoint, reference
from edgemtl.networks.backbones import join_branches
from edgemtl.networks.watching import watching
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run
from edgemtl.tasks import Size

Maps = dict[str, Tensor]

# The largest difference between a network and its deployment form, as a share of a raw output's standard deviation;
# 1e-6 is usual.
LARGEST = 1e-3


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
        return {task: objectives.of(task).activate(self.resized(x)) for task, x in raw.items()}

    def resized(self, raw: Tensor) -> Tensor:
        """A raw output at the maps' size."""
        if raw.shape[-2:] == self.size:
            return raw
        return F.interpolate(raw, self.size, mode="bilinear", align_corners=False)


class Deployed(nn.Module):
    """forward(frame (B, 3, H, W), RGB in 0..255) -> {task: map}; `raw` stops before the activations."""

    is_exact = False  # whether it is in the form of edgemtl.quantization.exact

    def __init__(self, network: nn.Module, size: Size, map_stride: int):
        super().__init__()
        self.normalise: nn.Module = Normalise()
        self.network = network
        self.stride = map_stride
        self.activate = Activate((-(-size[0] // map_stride), -(-size[1] // map_stride)))

    def raw(self, frame: Tensor) -> dict[str, Tensor]:
        return self.network(self.normalise(frame))

    def forward(self, frame: Tensor) -> Maps:
        return self.activate(self.raw(frame))


class Kept(nn.Module):
    """The maps of some tasks alone; what only the others need is dead code in an exported graph."""

    def __init__(self, activate: nn.Module, tasks: Iterable[str]) -> None:
        super().__init__()
        self.whole, self.tasks = activate, tuple(tasks)

    def forward(self, raw: dict[str, Tensor]) -> Maps:
        return self.whole({task: raw[task] for task in self.tasks})


def narrow(deployed: Any, tasks: Iterable[str]) -> None:
    """Cuts a network in deployment form to some of its tasks, in place."""
    deployed.activate = Kept(deployed.activate, tasks)


def prepare(network: nn.Module, recipe: Recipe, *, blank: bool = False) -> Deployed:
    """The deployment form of a copy of `network`, in eval mode, for frames of the recipe's size.

    CheckFailed where it does not compute what `network` does. With `blank` that is not checked: the network's weights
    are random, and others are loaded into the deployment form afterwards.
    """
    deployed = Deployed(copy.deepcopy(network), recipe.size, recipe.map_stride).eval()
    join_branches(deployed.network)
    deployed.eval().requires_grad_(False)
    frame = torch.zeros(1, 3, *recipe.size)
    inputs = fold_norms(deployed, frame)
    for module, shapes in reversed(inputs.items()):  # inner modules ran to their end, and so merge, before outer ones
        merge: Callable[..., nn.Module] | None = getattr(module, "merge", None)
        if merge is not None:
            replace(deployed, module, merge(*shapes))
    if not blank:
        _compare(deployed, network, recipe)
    return deployed


def _compare(deployed: Deployed, network: nn.Module, recipe: Recipe) -> None:
    """CheckFailed where the deployment form and the network it was made of differ on a random frame."""
    frame = torch.rand(1, 3, *recipe.size, generator=torch.Generator().manual_seed(0)) * 255
    training = [module for module in network.modules() if module.training]
    with torch.no_grad():
        wanted, got = network.eval()(Normalise()(frame)), deployed.raw(frame)
    for module in training:
        module.training = True
    for task, x in wanted.items():
        if not (x.isfinite().all() and got[task].isfinite().all()):
            raise CheckFailed(f"{task}: the network gives NaN or infinity for a random frame; its weights are no good")
        difference, spread = (got[task] - x).square().mean().sqrt().item(), x.std(correction=0).item()
        if difference > LARGEST * spread + 1e-5 * x.abs().max().item():
            raise CheckFailed(
                f"{task}: the deployment form differs from the network it was made of by {difference:.2g}, with a"
                f" standard deviation of {spread:.2g}: edgemtl.networks.prepare rewrites one of its layers wrongly"
            )


def shapes(network: nn.Module, example: Tensor) -> dict[nn.Module, list[torch.Size]]:
    """The shapes of each module's inputs (tensors, or shapes themselves), modules in the order of their first runs."""
    found: dict[nn.Module, list[torch.Size]] = {}

    def before(module: nn.Module, inputs: tuple[object, ...]) -> None:
        taken = [x.shape if isinstance(x, Tensor) else x for x in inputs]
        found.setdefault(module, [torch.Size(shape) for shape in taken if isinstance(shape, tuple)])

    with torch.no_grad(), watching(network.modules(), before):
        network(example)
    return found


def fold_norms(network: nn.Module, example: Tensor) -> dict[nn.Module, list[torch.Size]]:
    """Folds, in place, every BatchNorm that can be folded exactly; gives back each module's input shapes.

    A BatchNorm in eval mode is an affine map of the channels. It is folded into a layer if it reads only that layer's
    output and nothing else reads that output: no other norm, no skip connection, no later run of a shared layer. One
    run shows who reads what, which does not depend on the weights. A norm that cannot be folded stays.
    """
    watch = _Watch(network)
    with torch.no_grad(), watching(network.modules(), watch.enter, watch.leave), watch:
        outputs = network(example)
    watch.read(outputs, None)
    for norm, layers in watch.sources.items():
        layer = next(iter(layers))
        if layer is None or len(layers) > 1 or watch.readers[layer] != {norm}:
            continue
        assert norm.running_mean is not None and norm.running_var is not None
        assert isinstance(layer.weight, Tensor) and (layer.bias is None or isinstance(layer.bias, Tensor))
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
            transpose=isinstance(layer, nn.ConvTranspose2d),
        )  # fmt: skip
        replace(network, norm, getattr(norm, "act", nn.Identity()))  # timm keeps the activation inside its norm
    return watch.shapes


class _Watch(TorchDispatchMode):
    """One run of a network: whose output each BatchNorm reads, and who reads each layer's output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.shapes: dict[nn.Module, list[torch.Size]] = {}  # that each module takes
        self.sources: dict[nn.BatchNorm2d, set[nn.Module | None]] = {}  # None: something that is no such layer
        self.readers: dict[nn.Module, set[nn.Module | None]] = {}  # None: anything but a BatchNorm
        # Of a layer that a BatchNorm behind it can go into, if that is what its convolution computes with.
        taking = (m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)))
        self._weights = {id(m.weight): m for m in taking if isinstance(m, nn.Conv2d) or m.groups == 1}
        self._made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept so that its id stays its own
        self._running: list[nn.Module] = []
        self._direct: set[nn.Module] = set()  # whose weight a convolution took as it is kept

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.shapes[module] = [x.shape for x in inputs if isinstance(x, Tensor)]
        self._running.append(module)

    def leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._running.pop()
        if module in self._direct or getattr(module, "takes_norms", False):
            self._made[id(output)] = module, output
            self.readers.setdefault(module, set())

    def read(self, values: Any, norm: nn.Module | None) -> None:
        for x in tree_leaves(values):
            if id(x) in self._made:
                self.readers[self._made[id(x)][0]].add(norm)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        running = self._running[-1] if self._running else None
        norm = running if isinstance(running, nn.BatchNorm2d) and "batch_norm" in func.name() else None
        if norm is not None and norm.running_mean is not None:
            self.sources.setdefault(norm, set()).add(self._made.get(id(args[0]), (None,))[0])
        self.read((args, kwargs), norm)
        if func is torch.ops.aten.convolution.default and self._weights.get(id(args[1])) is running is not None:
            self._direct.add(running)
        return func(*args, **(kwargs or {}))


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
