"""timm backbones that return four maps, from local weights, timm's or none."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from edgemtl.bundled import DEFAULT, ZOO, names
from edgemtl.ground.errors import UsageError, unknown
from edgemtl.networks import purposes
from edgemtl.networks.layers import Resize
from edgemtl.networks.pieces import backbone_piece, load_pieces
from edgemtl.networks.points import Point
from edgemtl.records.run import Run

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Beside a CPU torch, torchvision's wheel dies on a missing operator, of which timm needs no more than the schema.
    torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm
from timm.layers import Format
from timm.models.hrnet import HighResolutionModule
from timm.models.swin_transformer import SwinTransformerBlock

BUNDLED = "zoo:"  # before the name of a model in the package, whose backbone's weights are meant


class Backbone(nn.Module):
    """Four maps (B, C_i, H / s_i, W / s_i) of an image (B, 3, H, W); `channels` and `strides` describe them."""

    purpose = purposes.BACKBONE

    def __init__(self, name: str, pretrained: bool = False, weights: str | Path | None = None):
        super().__init__()
        if not timm.is_model(name):
            raise unknown("backbone", name, timm.list_models())
        swin, hrnet = name.startswith("swin_"), name.startswith("hrnet")
        options: dict[str, Any] = {"strict_img_size": False, "always_partition": True} if swin else {}
        if hrnet:  # the raw branches, not the classification head's widened ones
            options["feature_location"] = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options["out_indices"] = _levels(name)
            # Weights from a file replace the downloaded ones, so nothing is downloaded.
            net: Any = _created(name, pretrained and weights is None, options)
        if swin:
            net.patch_embed.dynamic_img_pad = True
        _for_dense_prediction(net)
        self.net: nn.Module = net
        self.channels: list[int] = net.feature_info.channels()
        self.strides: list[int] = net.feature_info.reduction()
        self.channels_last_maps = getattr(net, "output_fmt", None) == Format.NHWC
        # Dense-prediction Swins normalise each output; the classification net that timm keeps does not.
        self.norms = nn.ModuleList(nn.LayerNorm(c) if swin else nn.Identity() for c in self.channels)
        if weights is not None:
            load_weights(self, bundled(weights))

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [norm(x) for norm, x in zip(self.norms, self.net(image), strict=True)]
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last_maps else maps


def _created(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    """timm's network that gives maps; UsageError where its ImageNet weights cannot be had."""
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except Exception as error:
        if not pretrained:
            raise
        # The hub's library raises a dozen kinds, by its version and by what the network does.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"the ImageNet weights of {name} cannot be had ({reason}); give a local file with"
            f" --set network.weights=FILE, or {BUNDLED}{DEFAULT}, those of the bundled model's backbone"
        ) from error


class PaddedBlock(SwinTransformerBlock):
    """A Swin block as dense prediction uses it: the map is padded to whole windows before it is shifted.

    timm shifts first, so that its windows at the border mix opposite sides of any map that is not whole windows.
    """

    def _attn(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -w % self.window_size[1], 0, -h % self.window_size[0]))
        return super()._attn(x)[:, :h, :w]


class _Resize(Resize):
    """To the exact size, which Enlarge has missed by a row or a column."""

    exact_form = 2

    def exact(self, source: torch.Size, target: torch.Size) -> nn.Module:
        super().exact(source, target)
        if self.rows is not None or self.columns is not None:
            self.point = Point()
        return self


class BranchExchange(HighResolutionModule):
    """HRNet's exchange between branches for dense prediction: bilinear, and also for sizes that do not halve evenly."""

    resizes: nn.ModuleList

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        x = [branch(y) for branch, y in zip(self.branches, x, strict=True)]
        fused = []
        for i, layers in enumerate(self.fuse_layers):
            # Layers enlarge by a whole factor, then to the exact size: two steps, which odd sizes tell from one.
            resizes: Any = self.resizes[i]
            parts = [resize(layer(y), x[i].shape[2:]) for layer, y, resize in zip(layers, x, resizes, strict=True)]
            fused.append(self.fuse_act(sum(parts[1:], parts[0])))
        return fused


class Enlarge(nn.Upsample):
    """Bilinear enlarging by a power of two; in the exact form of codes, whose sums float32 holds."""

    exact_form = 2
    point: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.point(x))

    def exact(self, *shapes: torch.Size) -> nn.Module:
        self.point = Point()
        return self


@cache
def _levels(name: str) -> tuple[int, ...]:
    """Which of a network's levels are its four stages: those of strides 4 to 32, else all without a stem.

    UsageError where there are fewer.
    """
    with torch.device("meta"):
        described: Any = timm.create_model(name).feature_info
    strides = [level["reduction"] for level in getattr(described, "info", described)]
    if len(strides) < 4:
        raise UsageError(f"backbone {name} has {len(strides)} stages, four are needed (as of mobilenetv4_conv_small)")
    if {4, 8, 16, 32} <= set(strides):
        return tuple(strides.index(stride) for stride in (4, 8, 16, 32))
    return (0, 1, 2, 3) if len(strides) == 4 else (1, 2, 3, 4)


def _for_dense_prediction(net: nn.Module) -> None:
    """Changes timm's classification networks, in place, to behave like the published ones for dense prediction."""
    for module in net.modules():
        if type(module) is SwinTransformerBlock:
            module.__class__ = PaddedBlock
        elif type(module) is HighResolutionModule:
            module.__class__ = BranchExchange
            rows: Any = module.fuse_layers
            module.resizes = nn.ModuleList(nn.ModuleList(_Resize() for _ in row) for row in rows)
            for layer in rows.modules():
                if isinstance(layer, nn.Upsample):
                    layer.mode, layer.align_corners = "bilinear", False
                    layer.__class__, layer.point = Enlarge, nn.Identity()


def join_branches(network: nn.Module) -> None:
    """Joins the parallel convolutions of RepVGG's kind into one, in place, in every backbone of a trained network."""
    for module in network.modules():
        if isinstance(module, Backbone):
            timm.models.reparameterize_model(module.net, inplace=True)


def synchronised(network: nn.Module) -> nn.Module:
    """The network with BatchNorm's statistics taken over all processes, which torch can do on CUDA alone."""
    return timm.layers.convert_sync_batchnorm(network)  # torch's own drops the activations in timm's norms


def bundled(weights: str | Path) -> Path:
    """The file of a bundled model for "zoo:NAME", else the path itself; UsageError for a wrong NAME."""
    text = str(weights)
    if not text.startswith(BUNDLED):
        return Path(weights)
    name, known = text.removeprefix(BUNDLED), names("float")
    if name not in known:
        raise unknown("bundled model", name, known)
    return Run(ZOO / name).weights("float")


def load_weights(backbone: Backbone, path: Path) -> None:
    """Loads a backbone from safetensors or a torch state_dict (opened with weights_only).

    Keys may be those of our own networks (a run's float.safetensors), timm's, mmsegmentation's (of a backbone or of a
    whole segmenter, such as the ADE20K ones that DeMT and MQTransformer begin with), or those of another implementation
    of the same network that defines its layers in the same order (torchvision's MobileNetV2,
    efficientnet_lite_pytorch): then tensors are matched by position, and every shape must agree. A classifier at the
    end is ignored. UsageError where the file does not fit.
    """
    if not path.is_file():
        raise UsageError(f"backbone weights {path} do not exist")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds for a broken file
        raise UsageError(f"backbone weights {path} cannot be read: {str(error).splitlines()[0]}") from None
    state = state.get("state_dict", state)
    counted, inside = ".num_batches_tracked", "backbone."
    if any(key.startswith(inside) for key in state):
        state = {key.removeprefix(inside): value for key, value in state.items() if key.startswith(inside)}
    if any(".attn.w_msa." in key for key in state):
        renamed = {inside + key: value for key, value in state.items()}
        load_pieces(backbone, lambda ours: backbone_piece(ours, backbone.channels), renamed, f"the backbone ({path})")
        return
    # Keys of our own networks begin at the backbone, timm's one level below.
    into = backbone if any(key.startswith("net.") for key in state) else backbone.net
    own = {key: value for key, value in into.state_dict().items() if not key.endswith(counted)}
    renamed = own.keys() <= state.keys()
    theirs = [state[k] for k in own] if renamed else [value for k, value in state.items() if not k.endswith(counted)]
    for (key, value), other in zip(own.items(), theirs, strict=False):
        if value.shape != other.shape:
            raise UsageError(
                f"backbone weights {path} are of another network: {key} has shape {tuple(value.shape)}, "
                f"the file has {tuple(other.shape)} in its place"
            )
    if len(theirs) < len(own):
        raise UsageError(f"backbone weights {path} hold {len(theirs)} tensors, the backbone has {len(own)}")
    into.load_state_dict(dict(zip(own, theirs, strict=False)), strict=False)
