"""MQTransformer written the plain way, as its paper draws it: what edgemtl's network is measured against.

Stages are enlarged, concatenated and projected by one linear layer for each task; tokens are (B, n, C) in memory; every
LayerNorm is a layer of its own, learned queries go through theirs for every image, and attention is matmul and softmax
or torch's nn.MultiheadAttention, run the way the published code ran at one image (see edgemtl/models/mqtransformer.py):
pixels are its batch, so that each has one key. It takes the weights of edgemtl's MQTransformer, whose options must be
the paper's but for width, queries, heads and depth.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models import mqtransformer as ours
from edgemtl.networks.backbones import Backbone


def _linear(conv: nn.Conv2d) -> nn.Linear:
    made = nn.Linear(conv.in_channels, conv.out_channels, conv.bias is not None)
    made.weight.data.copy_(conv.weight.flatten(1))
    if conv.bias is not None:
        made.bias.data.copy_(conv.bias)
    return made


def _normed(projection: ours.Projection) -> nn.Sequential:
    """The LayerNorm whose scale and shift the projection has, and its linear layer."""
    out, width = projection.weight.shape[:2]
    norm, made = nn.LayerNorm(width), nn.Linear(width, out, projection.bias is not None)
    if projection.scale is not None and projection.shift is not None:
        norm.weight.data.copy_(projection.scale)
        norm.bias.data.copy_(projection.shift)
    made.weight.data.copy_(projection.weight.flatten(1))
    if projection.bias is not None:
        made.bias.data.copy_(projection.bias)
    return nn.Sequential(norm, made)


def _attention(parts: list[nn.Conv2d], out: nn.Conv2d, heads: int) -> nn.MultiheadAttention:
    made = nn.MultiheadAttention(out.in_channels, heads)
    made.in_proj_weight.data.copy_(torch.cat([part.weight.flatten(1) for part in parts]))
    made.in_proj_bias.data.copy_(torch.cat([part.bias for part in parts if part.bias is not None]))
    made.out_proj.load_state_dict(_linear(out).state_dict())
    return made


class Mlp(nn.Sequential):
    def __init__(self, mlp: ours.Mlp):
        super().__init__(_normed(mlp.widen), nn.GELU(), _linear(mlp.narrow))


class Cross(nn.Module):
    """Attention of queries (B, n, C) over keys (B, m, C), each with norms and projections of its own."""

    def __init__(self, part: ours.Encoder | ours.Decoder):
        super().__init__()
        self.heads = part.heads
        self.query, self.key, self.value = _normed(part.query), _normed(part.key), _normed(part.value)
        self.out = _linear(part.out)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        weights = ((q @ k.transpose(2, 3)) * q.shape[3] ** -0.5).softmax(-1)
        made: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return made


class Block(nn.Module):
    def __init__(self, block: ours.Block):
        super().__init__()
        encoder, cross, decoder = block.encoder, block.cross, block.decoder
        self.queries = block.queries
        self.encode, self.learn, self.encode_mlp = Cross(encoder), _normed(encoder.learn), Mlp(encoder.mlp)
        self.exchange = _attention([cross.query, cross.key, cross.value], cross.out, cross.heads)
        self.norm = nn.LayerNorm(cross.query.in_channels)
        self.norm.load_state_dict(cross.norm.state_dict())
        self.exchange_mlp = Mlp(cross.mlp)
        self.decode, self.mlp, self.last_mlp = Cross(decoder), Mlp(decoder.mlp), Mlp(decoder.last_mlp)
        itself = decoder.itself
        assert itself.query_key is not None
        self.itself = _attention([itself.query_key, itself.value], itself.out, decoder.heads)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        read = []
        for task, x in maps.items():
            queries: ours.Queries = self.queries[task]  # type: ignore[assignment]
            start, placed = (y.flatten(2).transpose(1, 2) for y in (queries.start(), queries.placed()))
            tokens = start + self.encode(placed, x, x)
            tokens = tokens + self.learn(tokens)
            read.append(tokens + self.encode_mlp(tokens))
        mixed = torch.cat(read, 1).transpose(0, 1)
        mixed = mixed + self.exchange(mixed, mixed, mixed, need_weights=False)[0]
        mixed = mixed + self.exchange_mlp(self.norm(mixed))
        shared = mixed.transpose(0, 1).chunk(len(maps), 1)
        return {task: self._decoded(x, tokens, task) for (task, x), tokens in zip(maps.items(), shared, strict=True)}

    def _decoded(self, x: Tensor, tokens: Tensor, task: str) -> Tensor:
        queries: ours.Queries = self.queries[task]  # type: ignore[assignment]
        keys = queries.keys(tokens.transpose(1, 2)[..., None]).flatten(2).transpose(1, 2)
        y = x + self.decode(x, keys, tokens)
        y = y + self.mlp(y)
        alone = y.reshape(1, -1, y.shape[2])
        y = x + self.itself(alone, alone, alone, need_weights=False)[0].view_as(y)
        return F.gelu(y + self.last_mlp(y))


class PlainMQTransformer(nn.Module):
    """{task: raw (B, channels, h, w)} of images (B, 3, H, W), as edgemtl's MQTransformer gives it."""

    def __init__(self, network: ours.MQTransformer, backbone: Backbone):
        super().__init__()
        backbone.load_state_dict(network.backbone.state_dict())
        self.backbone, self.linears = backbone, nn.ModuleDict()
        for task, fusion in network.fusions.items():
            stages = list(fusion.stages)
            linear = nn.Linear(sum(stage.in_channels for stage in stages), network.width)
            linear.weight.data.copy_(torch.cat([stage.weight.flatten(1) for stage in stages], 1))
            linear.bias.data.copy_(stages[0].bias)
            self.linears[task] = linear
        self.blocks = nn.ModuleList(Block(block) for block in network.blocks if isinstance(block, ours.Block))
        self.heads = network.heads

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(image)
        size = maps[0].shape[2:]
        enlarged = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps]
        tokens = torch.cat(enlarged, 1).flatten(2).transpose(1, 2)
        x = {task: linear(tokens) for task, linear in self.linears.items()}
        for block in self.blocks:
            x = block(x)
        return {task: self.heads[task](y.transpose(1, 2).unflatten(2, size)) for task, y in x.items()}
