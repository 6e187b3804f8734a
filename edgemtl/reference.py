"""Published checkpoints in our networks: which of the authors' tensors each of ours is.

DeMT: https://github.com/yangyangxu0/DeMT, with the backbones of mmsegmentation's naming.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.backbones import Backbone
from edgemtl.errors import UsageError, unknown


class Piece(NamedTuple):
    """Where one of our tensors is among the authors': in `key`, from `start` along `axis`, the last axis in `order`."""

    key: str
    axis: int = 0
    start: int = 0
    order: Tensor | None = None


Find = Callable[[list[str]], Piece]  # from the parts of our key

BACKBONES = {
    "hrnet18s": "hrnet_w18_small_v2",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
}

# Entries that hold nothing learned, or belong to a loss, a metric or a classifier that the network does not have.
IGNORED = re.compile(
    r"(criterion|metrics_dict)\.|.*\.(num_batches_tracked|relative_position_index|attn_mask|fn\.0\.offset)$"
    r"|backbone\.(incre_modules|downsamp_modules|final_layer|classifier|norm|head)\."
)


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

    `tasks` gives the output channels of each task under the authors' name for it (semseg, depth, normals, edge,
    human_parts, sal), in the order of their configuration: they number some layers by it. `state_dict` is theirs, or a
    Lightning checkpoint that holds one; widths and depths are read off it. Results are those of their code for one
    image, whatever the batch. UsageError for an unknown name, or naming the first missing and the first unexpected key.
    """
    if method not in METHODS:
        raise unknown("reference method", method, METHODS)
    if backbone not in BACKBONES:
        raise unknown("reference backbone", backbone, BACKBONES)
    if not tasks:
        raise UsageError("tasks is empty; it needs at least one {task: channels}")
    state = {key: value for key, value in state_dict.get("state_dict", state_dict).items() if isinstance(value, Tensor)}
    network, find = METHODS[method](Backbone(BACKBONES[backbone]), tasks, state)
    _load(network, find, state, f"{method} with {backbone} and tasks {', '.join(tasks)}")
    return Reference(network).eval()


def _load(network: nn.Module, find: Find, state: dict[str, Tensor], what: str) -> None:
    """Fills the network; UsageError where a key is missing or left over, or a shape is another."""
    own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    pieces = {key: find(key.split(".")) for key in own}
    needed: dict[str, list[int]] = {}
    for key, piece in pieces.items():
        shape = list(own[key].shape)
        shape[piece.axis] += piece.start
        needed[piece.key] = max(needed.get(piece.key, shape), shape)

    missing = [key for key in needed if key not in state]
    unexpected = [key for key in state if key not in needed and not IGNORED.match(key)]
    if missing or unexpected:
        firsts = [f"{kind} {keys[0]!r}" for kind, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        counts = f"{len(missing)} missing, {len(unexpected)} unexpected in all"
        raise UsageError(f"state_dict does not fit {what}: {', '.join(firsts)} ({counts})")
    for key, shape in needed.items():
        found = list(state[key].shape)
        if shape not in (found, [*found, 1, 1]):  # their Linear may be our 1x1 convolution
            raise UsageError(f"state_dict does not fit {what}: {key!r} has shape {found}, expected {shape}")

    for key, (theirs, axis, start, order) in pieces.items():
        value = state[theirs].reshape(needed[theirs]).narrow(axis, start, own[key].shape[axis])
        own[key] = value if order is None else value[..., order]
    network.load_state_dict(own, strict=False)


def _demt(backbone: Backbone, tasks: dict[str, int], state: dict[str, Tensor]) -> tuple[nn.Module, Find]:
    """A blank DeMT of the state_dict's sizes, and where its tensors come from."""
    from edgemtl.models.demt import DeMT  # edgemtl.models imports this file

    def rows(key: str, otherwise: int) -> int:
        return len(state[key]) if key in state and state[key].ndim else otherwise

    # Until March 2023 a mixer block was the deformable unit, then the 1x1 convolution; since then the other way round.
    old = "head.defor_mixers.0.blocks.0.0.fn.0.weight" in state
    point, norm, deform = ("1", "3", "0.fn") if old else ("0", "2", "3.fn")
    width, blocks = rows("head.linear1.0.weight", 256), "head.defor_mixers.0.blocks."
    try:
        network = DeMT(
            backbone,
            tasks,
            width=width,
            depth=len({key.removeprefix(blocks).split(".")[0] for key in state if key.startswith(blocks)}) or 1,
            offset_groups=rows(f"{blocks}0.{deform}.0.get_offset.opt.weight", 2 * width) // 2,
            head_width=rows(f"head.bottleneck.{next(iter(tasks))}.conv.weight", 0),
            spatial_first=old,
        )
    except ValueError as error:
        raise UsageError(f"state_dict is of no DeMT: {error}") from None

    number = {task: str(i) for i, task in enumerate(tasks)}
    mixer = {"channel": {"0": point, "2": norm}, "spatial": {"0": f"{deform}.0", "2": f"{deform}.2"}}
    offsets = {"point": "get_offset.p_conv.", "mix": "get_offset.opt."}
    starts = {str(i): sum(backbone.channels[:i]) for i in range(len(backbone.channels))}
    projected = {"query_key": 0, "query": 0, "key": width, "value": 2 * width}  # first row in the attention's in_proj

    def find(ours: list[str]) -> Piece:
        match ours:
            case ["backbone", *rest]:
                return _backbone(rest, backbone)
            case ["fusion", "stages", stage, kind]:
                return Piece(f"head.linear1.0.{kind}", int(kind == "weight"), starts[stage])
            case ["fusion", "norm", kind]:
                return Piece(f"head.linear1.1.{kind}")
            case ["mixers", task, block, unit, layer, *inner, kind]:
                name = offsets[inner[1]] + kind if inner else kind
                return Piece(f"head.defor_mixers.{number[task]}.blocks.{block}.{mixer[unit][layer]}.{name}")
            case ["interaction", "query_key" | "value" as part, kind]:
                return Piece(f"head.task_fusion.in_proj_{kind}", 0, projected[part])
            case ["projections", task, part, kind] | ["queries", task, "query" as part, kind]:
                return Piece(f"head.task_querys.{number[task]}.in_proj_{kind}", 0, projected[part])
            case ["interaction", "out", kind]:
                return Piece(f"head.task_fusion.out_proj.{kind}")
            case ["queries", task, "out", kind]:
                return Piece(f"head.task_querys.{number[task]}.out_proj.{kind}")
            case ["interaction", "project" | "norm" as layer, kind]:
                return Piece(f"head.smlp.{int(layer == 'norm')}.{kind}")
            case ["queries", task, "project" | "norm" as layer, kind]:
                return Piece(f"head.smlp2.{number[task]}.{int(layer == 'norm')}.{kind}")
            case ["heads", task, "conv", layer, kind]:
                return Piece(f"head.bottleneck.{task}.{'conv' if layer == '0' else 'bn'}.{kind}")
            case ["heads", task, "logits", kind]:
                return Piece(f"head.final_logits.{task}.{kind}")
        raise AssertionError(ours)

    return network, find


def _backbone(ours: list[str], backbone: Backbone) -> Piece:
    """Where a tensor of the backbone comes from: HRNet's keys are timm's, Swin's are mmsegmentation's."""
    match ours:
        case ["norms", stage, kind]:
            return Piece(f"backbone.norm{stage}.{kind}")
        case ["net", "patch_embed", "proj", kind]:
            return Piece(f"backbone.patch_embed.projection.{kind}")
        case ["net", "layers_1" | "layers_2" | "layers_3" as layers, "downsample", *rest]:
            before = int(layers[-1]) - 1
            # Four neighbours become one token: theirs channel by channel and row first, timm's neighbour by neighbour
            # and column first.
            order = torch.arange(4 * backbone.channels[before]).reshape(-1, 2, 2).permute(2, 1, 0).flatten()
            return Piece(f"backbone.stages.{before}.downsample.{'.'.join(rest)}", order=order)
        case ["net", "layers_0" | "layers_1" | "layers_2" | "layers_3" as layers, "blocks", block, *rest]:
            name = ".".join(rest).replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
            return Piece(f"backbone.stages.{layers[-1]}.blocks.{block}.{name.replace('attn.', 'attn.w_msa.')}")
        case ["net", *rest]:
            return Piece(f"backbone.{'.'.join(rest)}")
    raise AssertionError(ours)


METHODS = {"demt": _demt}
