"""Fills our network with another one's tensors, if each of ours is one of theirs or a part of one."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgemtl.ground.errors import UsageError


class Piece(NamedTuple):
    """Where one of our tensors is among the authors': in `key`, from `start` along `axis`, the last axis in `order`."""

    key: str
    axis: int = 0
    start: int = 0
    order: Tensor | None = None


Find = Callable[[list[str]], Piece]  # from the parts of our key

# Entries that hold nothing learned, or belong to a loss, a metric or a classifier that the network does not have.
IGNORED_KEYS = (
    r"(criterion|metrics_dict)\.|.*\.(num_batches_tracked|relative_position_index|attn_mask)$"
    r"|backbone\.(incre_modules|downsamp_modules|final_layer|classifier|norm|head)\."
)


def load_pieces(network: nn.Module, find: Find, state: dict[str, Tensor], what: str, dead: str = "") -> None:
    """Loads the network; UsageError where a key is missing or left over, or a shape is another.

    Keys that match `dead` belong to layers without effect: the state_dict may have them.
    """
    ignored = re.compile(f"{IGNORED_KEYS}|{dead}" if dead else IGNORED_KEYS)
    ours = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    pieces = {key: find(key.split(".")) for key in ours}
    needed: dict[str, list[int]] = {}
    for key, piece in pieces.items():
        shape = list(ours[key].shape)
        shape[piece.axis] += piece.start
        needed[piece.key] = max(needed.get(piece.key, shape), shape)

    missing = [key for key in needed if key not in state]
    unexpected = [key for key in state if key not in needed and not ignored.match(key)]
    if missing or unexpected:
        firsts = [f"{kind} {keys[0]!r}" for kind, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        counts = f"{len(missing)} missing, {len(unexpected)} unexpected in all"
        raise UsageError(f"state_dict does not fit {what}: {', '.join(firsts)} ({counts})")
    for key, shape in needed.items():
        found = list(state[key].shape)
        if shape not in (found, [*found, 1], [*found, 1, 1]):  # their Linear or Conv1d may be our 1x1 convolution
            raise UsageError(f"state_dict does not fit {what}: {key!r} has shape {found}, expected {shape}")

    for key, (theirs, axis, start, order) in pieces.items():
        value = state[theirs].reshape(needed[theirs]).narrow(axis, start, ours[key].shape[axis])
        ours[key] = value if order is None else value[..., order]
    network.load_state_dict(ours, strict=False)


def rows(state: dict[str, Tensor], key: str, otherwise: int) -> int:
    """The first dimension of an entry, or `otherwise` where there is none."""
    return len(state[key]) if key in state and state[key].ndim else otherwise


def backbone_piece(ours: list[str], channels: Sequence[int]) -> Piece:
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
            order = torch.arange(4 * channels[before]).reshape(-1, 2, 2).permute(2, 1, 0).flatten()
            return Piece(f"backbone.stages.{before}.downsample.{'.'.join(rest)}", order=order)
        case ["net", "layers_0" | "layers_1" | "layers_2" | "layers_3" as layers, "blocks", block, *rest]:
            name = ".".join(rest).replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
            return Piece(f"backbone.stages.{layers[-1]}.blocks.{block}.{name.replace('attn.', 'attn.w_msa.')}")
        case ["net", *rest]:
            return Piece(f"backbone.{'.'.join(rest)}")
    raise AssertionError(ours)
