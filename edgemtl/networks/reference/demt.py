"""DeMT's checkpoints: https://github.com/yangyangxu0/DeMT, in both layouts of its blocks, and DeMTG's gate."""

from typing import Any

from torch import Tensor

from edgemtl.models.demt import DeMT
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.pieces import Find, Piece, backbone_piece, rows

DEAD = r".*\.fn\.0\.offset$"  # filled, saved and never read


def blank(backbone: Backbone, tasks: dict[str, int], state: dict[str, Tensor], **options: Any) -> DeMT:
    """A DeMT of the state_dict's sizes; ValueError where they are no DeMT's. Heads cannot be read off it."""
    # Until March 2023 a mixer block was the deformable unit, then the 1x1 convolution; since then the other way round.
    old = "head.defor_mixers.0.blocks.0.0.fn.0.weight" in state
    width, blocks = rows(state, "head.linear1.0.weight", 256), "head.defor_mixers.0.blocks."
    deform = "0.fn" if old else "3.fn"
    return DeMT(
        backbone,
        tasks,
        width=width,
        depth=len({key.removeprefix(blocks).split(".")[0] for key in state if key.startswith(blocks)}) or 1,
        offset_groups=rows(state, f"{blocks}0.{deform}.0.get_offset.opt.weight", 2 * width) // 2,
        head_width=rows(state, f"head.bottleneck.{next(iter(tasks))}.conv.weight", 0),
        spatial_first=old,
        **options,
    )


def finder(network: DeMT, tasks: dict[str, int]) -> Find:
    """Where the network's tensors are in such a checkpoint."""
    point, norm, deform = ("1", "3", "0.fn") if network.spatial_first else ("0", "2", "3.fn")
    width, channels = network.width, network.backbone.channels
    number = {task: str(i) for i, task in enumerate(tasks)}
    mixer = {"channel": {"0": point, "2": norm}, "spatial": {"0": f"{deform}.0", "2": f"{deform}.2"}}
    offsets = {"point": "get_offset.p_conv.", "mix": "get_offset.opt."}
    starts = {str(i): sum(channels[:i]) for i in range(len(channels))}
    projected = {"query_key": 0, "query": 0, "key": width, "value": 2 * width}  # first row in the attention's in_proj
    gate = {"norm": "ln1_0", "widen": "fc1_0", "gate_norm": "sgu_0.ln", "gate": "sgu_0.proj", "narrow": "fc2_0"}

    def find(ours: list[str]) -> Piece:
        match ours:
            case ["backbone", *rest]:
                return backbone_piece(rest, network.backbone.channels)
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
            case ["gate", part, kind]:
                return Piece(f"head.gmlps.gating.0.fn.{gate[part]}.{kind}")
            case ["heads", task, "conv", layer, kind]:
                return Piece(f"head.bottleneck.{task}.{'conv' if layer == '0' else 'bn'}.{kind}")
            case ["heads", task, "logits", kind]:
                return Piece(f"head.final_logits.{task}.{kind}")
        raise AssertionError(ours)

    return find
