"""SCA-MTL's checkpoints: https://github.com/kimsunkyung/SCA_MTL, trained on HRNet18-S."""

from torch import Tensor

from edgemtl.ground.errors import UsageError
from edgemtl.models.sca import SCA
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.pieces import Find, Piece, backbone_piece

CHANNELS = [18, 36, 72, 144]

# Norms of MLPs that are gone and, where there is one task, layers that the authors build and cannot run.
DEAD = (
    r".*\.blocks\.\d+\.norm2\.(weight|bias)$"
    r"|distillation_scale_\d\.dimensionality_reduction\.(conv\d\.weight|bn\d\.\w+|downsample\.(0\.weight|1\.\w+))$"
    r"|fpm_scale_\d\.swtf\.(patch_embed\.(proj|norm)|layers\.0\.blocks\.0\.(norm1|attn\.(qkv|proj))|norm0)\.(weight|bias)$"
    r"|fpm_scale_\d\.swtf\.layers\.0\.blocks\.0\.attn\.relative_position_bias_table$"
)


def blank(backbone: Backbone, tasks: dict[str, int], state: dict[str, Tensor]) -> SCA:
    """The published network, whose sizes are written in its code; UsageError for another backbone."""
    if backbone.channels != CHANNELS:
        raise UsageError("sca was published with hrnet18s only; there are no checkpoints with another backbone")
    return SCA(backbone, tasks)


def finder(network: SCA, tasks: dict[str, int]) -> Find:
    """Where the network's tensors are in such a checkpoint."""
    projection = {"0": "0.conv", "1": "0.bn", "3": "1.conv", "4": "1.bn"}  # of queries and keys; values have one layer
    shortcut = {"0": "downsample.0", "1": "downsample.1"}
    widths = [2 * c for c in network.backbone.channels]
    # The channels that a head aggregates, scale by scale.
    parts = [2 * (len(widths) - 1 - k) * width for k, width in enumerate(widths)]
    starts = {str(k): sum(parts[:k]) for k in range(len(widths))}

    def swin(prefix: str, ours: list[str]) -> Piece:
        match ours:
            case ["embed", layer, kind]:
                return Piece(f"{prefix}.patch_embed.{'proj' if layer == '0' else 'norm'}.{kind}")
            case ["norm", kind]:
                return Piece(f"{prefix}.norm0.{kind}")
            case ["blocks", block, "norm", kind]:
                return Piece(f"{prefix}.layers.0.blocks.{block}.norm1.{kind}")
            case ["blocks", block, "table"]:
                return Piece(f"{prefix}.layers.0.blocks.{block}.attn.relative_position_bias_table")
            case ["blocks", block, "qkv" | "project" as layer, kind]:
                return Piece(f"{prefix}.layers.0.blocks.{block}.attn.{'proj' if layer == 'project' else 'qkv'}.{kind}")
        raise AssertionError(ours)

    def residual(prefix: str, ours: list[str]) -> Piece:
        match ours:
            case ["shortcut", layer, kind]:
                return Piece(f"{prefix}.{shortcut[layer]}.{kind}")
            case [layer, kind]:
                return Piece(f"{prefix}.{layer}.{kind}")
        raise AssertionError(ours)

    def cross(prefix: str, ours: list[str]) -> Piece:
        match ours:
            case ["value", layer, kind]:
                return Piece(f"{prefix}.value_project.{'conv' if layer == '0' else 'bn'}.{kind}")
            case ["query" | "key" as part, layer, kind]:
                return Piece(f"{prefix}.{part}_project.{projection[layer]}.{kind}")
        raise AssertionError(ours)

    def find(ours: list[str]) -> Piece:
        match ours:
            case ["backbone", *rest]:
                return backbone_piece(rest, network.backbone.channels)
            case ["attention", scale, *rest]:
                return swin(f"swTransform{int(scale) + 1}", rest)
            case ["refine", scale, task, "blocks", block, *rest]:
                return residual(f"scale_{scale}.refinement.{task}.{block}", rest)
            case ["refine", scale, task, "logits", kind]:
                return Piece(f"scale_{scale}.decoders.{task}.{kind}")
            case ["exchange", scale, "queries" | "sources" as part, pair, *rest]:
                task, apart, other = pair.partition("_from_")
                if apart:
                    prefix = f"distillation_scale_{scale}.cross_attention.{task}.{other}"
                    return cross(prefix, ["query", *rest] if part == "queries" else rest)
            case ["exchange", scale, "reduce", *rest]:
                return residual(f"distillation_scale_{scale}.dimensionality_reduction", rest)
            case ["propagate", scale, "attention", *rest]:  # ours counts from the scale that it goes to
                return swin(f"fpm_scale_{int(scale) + 1}.swtf", rest)
            case ["propagate", scale, "reduce", *rest]:
                return residual(f"fpm_scale_{int(scale) + 1}.dimensionality_reduction", rest)
            case ["propagate", scale, "squeeze", task, "layers", *rest]:
                return Piece(f"fpm_scale_{int(scale) + 1}.se.{task}.squeeze.{'.'.join(rest)}")
            case ["heads", task, "queries" | "sources" as part, scale, *rest]:
                prefix = f"heads.{task}.cross_scale_attention{scale}"
                return cross(prefix, ["query", *rest] if part == "queries" else rest)
            case ["heads", task, "narrow", scale, above, layer, kind]:
                return Piece(f"heads.{task}.upsample{int(scale) + 1 + int(above)}{scale}.{layer}.{kind}")
            case ["heads", task, "fusion", "stages", scale, kind]:
                return Piece(f"heads.{task}.last_layer.0.{kind}", int(kind == "weight"), starts[scale])
            case ["heads", task, "fusion", "norm", kind]:
                return Piece(f"heads.{task}.last_layer.1.{kind}")
            case ["heads", task, "logits", kind]:
                return Piece(f"heads.{task}.last_layer.3.{kind}")
        raise AssertionError(ours)

    return find
