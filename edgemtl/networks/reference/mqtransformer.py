"""MQTransformer's checkpoints: https://github.com/yangyangxu0/MQTransformer."""

from torch import Tensor

from edgemtl.models.mqtransformer import MQTransformer
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.pieces import Find, Piece, backbone_piece, rows

BLOCKS_PREFIX = "head.parts_query_encoder_decoder_blocks."
# The first is run and not used, the others are never run.
DEAD = r"head\.patch_embed\.|head\.parts_query_encoder_decoder_blocks\.\d+\.decoder1\.(attn2|rel_pos)\."

# Theirs for our parts of a block. A Projection's scale and shift are the LayerNorm before their Linear.
NORMED = {
    "encoder.query": ("encoder1.enc_attn.to_q", "encoder1.enc_attn.norm_q"),
    "encoder.key": ("encoder1.enc_attn.to_k", "encoder1.enc_attn.norm_k"),
    "encoder.value": ("encoder1.enc_attn.to_v", "encoder1.enc_attn.norm_v"),
    "encoder.learn": ("encoder1.reason.linear", "encoder1.reason.norm"),
    "encoder.mlp.widen": ("encoder1.enc_ffn.fc1", "encoder1.enc_ffn.norm"),
    "cross.mlp.widen": ("ffn_mlp.fc1", "ffn_mlp.norm"),
    "decoder.query": ("decoder1.attn1.to_q", "decoder1.attn1.norm_q"),
    "decoder.key": ("decoder1.attn1.to_k", "decoder1.attn1.norm_k"),
    "decoder.value": ("decoder1.attn1.to_v", "decoder1.attn1.norm_v"),
    "decoder.mlp.widen": ("decoder1.ffn1.fc1", "decoder1.ffn1.norm"),
    "decoder.last_mlp.widen": ("decoder1.ffn2.fc1", "decoder1.ffn2.norm"),
}
PLAIN = {
    "encoder.out": "encoder1.enc_attn.proj",
    "encoder.mlp.narrow": "encoder1.enc_ffn.fc2",
    "cross.out": "mhsa_1.out_proj",
    "cross.norm": "norm_layer",
    "cross.mlp.narrow": "ffn_mlp.fc2",
    "decoder.out": "decoder1.attn1.proj",
    "decoder.mlp.narrow": "decoder1.ffn1.fc2",
    "decoder.itself.out": "decoder1.mhsa.out_proj",
    "decoder.last_mlp.narrow": "decoder1.ffn2.fc2",
}
PACKED = {"query_key": 0, "query": 0, "key": 1, "value": 2}  # which third of an in_proj
QUERIES = {"tokens": "rpn_tokens", "query_position": "rpn_qpos", "key_position": "rpn_kpos"}


def blank(backbone: Backbone, tasks: dict[str, int], state: dict[str, Tensor]) -> MQTransformer:
    """An MQTransformer of the state_dict's sizes; ValueError where they are no MQTransformer's."""
    tokens, position = (state.get(f"{BLOCKS_PREFIX}0.{name}.0") for name in ("rpn_tokens", "rpn_qpos"))
    queries, width = (64, 256) if tokens is None or tokens.ndim != 3 else tokens.shape[1:]
    share = width // 4 if position is None or position.ndim != 4 else position.shape[3]
    return MQTransformer(
        backbone,
        tasks,
        width=width,
        queries=queries,
        heads=width // max(share, 1),
        depth=len({key.removeprefix(BLOCKS_PREFIX).split(".")[0] for key in state if key.startswith(BLOCKS_PREFIX)})
        or 1,
        token_hidden=rows(state, f"{BLOCKS_PREFIX}0.ffn_mlp.fc1.weight", 0),
        pixel_hidden=rows(state, f"{BLOCKS_PREFIX}0.decoder1.ffn1.fc1.weight", 0),
        head_width=rows(state, f"head.bottleneck.{next(iter(tasks))}.conv.weight", 0),
    )


def finder(network: MQTransformer, tasks: dict[str, int]) -> Find:
    """Where the network's tensors are in such a checkpoint."""
    width, channels = network.width, network.backbone.channels
    number = {task: str(i) for i, task in enumerate(tasks)}
    starts = {str(i): sum(channels[:i]) for i in range(len(channels))}

    def find(ours: list[str]) -> Piece:
        match ours:
            case ["backbone", *rest]:
                return backbone_piece(rest, network.backbone.channels)
            case ["fusions", task, "stages", stage, kind]:
                return Piece(f"head.linears.{number[task]}.{kind}", int(kind == "weight"), starts[stage])
            case ["blocks", block, "queries", task, kind]:
                return Piece(f"{BLOCKS_PREFIX}{block}.{QUERIES[kind]}.{number[task]}")
            case ["blocks", block, "cross", "query" | "key" | "value" as part, kind]:
                return Piece(f"{BLOCKS_PREFIX}{block}.mhsa_1.in_proj_{kind}", 0, PACKED[part] * width)
            case ["blocks", block, "decoder", "itself", "query_key" | "value" as part, kind]:
                return Piece(f"{BLOCKS_PREFIX}{block}.decoder1.mhsa.in_proj_{kind}", 0, PACKED[part] * width)
            case ["blocks", block, *part, kind] if (name := ".".join(part)) in NORMED:
                linear, norm = NORMED[name]
                scaled = {"scale": f"{norm}.weight", "shift": f"{norm}.bias"}
                return Piece(f"{BLOCKS_PREFIX}{block}.{scaled.get(kind, f'{linear}.{kind}')}")
            case ["blocks", block, *part, kind]:
                return Piece(f"{BLOCKS_PREFIX}{block}.{PLAIN['.'.join(part)]}.{kind}")
            case ["heads", task, "conv", layer, kind]:
                return Piece(f"head.bottleneck.{task}.{'conv' if layer == '0' else 'bn'}.{kind}")
            case ["heads", task, "logits", kind]:
                return Piece(f"head.final_logits.{task}.{kind}")
        raise AssertionError(ours)

    return find
