"""MQTransformer: Multi-Task Learning with Multi-Query Transformer for Dense Prediction (Xu, Li, Yuan, Yang, Zhang;
TCSVT 2023).

https://arxiv.org/abs/2205.14354. The defaults are the published network; a device variant is the same code with other
numbers: fusion at stride 8, few queries, narrow keys, and layers that fold (BatchNorm before ReLU).

What differs from the published code: the decoder's self-attention ran over the batch axis, so that results depended on
the other images of the batch. This code computes what that one computes for one image, a linear map of each token. The
4x4 patch embedding, second decoder attention and relative positions had no effect and are left out. The same sums are
computed with fewer products: linear layers are 1x1 convolutions, fusions project each stage before enlarging it, the
norms of one map share their statistics, and products that do not depend on the image are computed once.

The cross-task step drops half of its paths in training. The published code draws once for each query token, at one
image per GPU. Here each image draws for each of its own tokens.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models import _mqtransformer_exact as exact
from edgemtl.networks import purposes
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.chains import chain, conv1x1
from edgemtl.networks.layers import Detail, Fusion, Gelu, Head, TokenNorm, norm2d


def _activation(kind: str) -> nn.Module:
    kinds = {"gelu": Gelu, "relu": nn.ReLU}
    if kind not in kinds:
        raise ValueError(f"activation={kind!r}: gelu or relu")
    return kinds[kind]()


def _standard(width: int) -> TokenNorm:
    """LayerNorm without its scale and shift, which the Projections behind it have."""
    return TokenNorm(width, elementwise_affine=False)


class Projection(nn.Module):
    """A 1x1 convolution (B, out, h, w) of a standardised map; it has the scale and shift of the norm before it.

    They are left out unless `scaled`. `axes` is the number of 1s in its weight's shape in checkpoints.
    """

    takes_norms = True  # a BatchNorm behind it can go into its weight and bias, see edgemtl.networks.prepare

    def __init__(self, width: int, out: int, bias: bool = False, scaled: bool = True, axes: int = 2):
        super().__init__()
        plain = nn.Linear(width, out, bias)
        self.weight = nn.Parameter(plain.weight.detach().reshape(out, width, *[1] * axes))
        self.bias: nn.Parameter | None = plain.bias if bias else None
        self.scale = nn.Parameter(torch.ones(width)) if scaled else None
        self.shift = nn.Parameter(torch.zeros(width)) if scaled else None

    def matrix(self) -> tuple[Tensor, Tensor]:
        """The whole as a matrix (out, width) and a bias (out,)."""
        weight = self.weight.flatten(1)
        bias = torch.zeros_like(weight[:, 0]) if self.bias is None else self.bias
        if self.scale is None or self.shift is None:
            return weight, bias
        return weight * self.scale, bias + weight @ self.shift

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.matrix()
        return F.conv2d(x, weight[:, :, None, None], bias)

    def merge(self, *shapes: torch.Size) -> nn.Module:
        return conv1x1(*self.double().matrix())


class Mlp(nn.Module):
    """Two layers on each place of a map (B, width, h, w). A BatchNorm comes after the first, where it folds."""

    def __init__(self, width: int, hidden: int, norm: str, activation: str):
        super().__init__()
        layer = norm == "layer"
        self.norm = _standard(width) if layer else nn.Identity()
        self.widen = Projection(width, hidden, bias=layer, scaled=layer)
        self.active = nn.Sequential(nn.Identity() if layer else norm2d(norm, hidden), _activation(activation))
        self.narrow = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.active(self.widen(self.norm(x))))


class DropPath(nn.Module):
    """In training, the branch (B, C, h, w) with whole images, or each of their pixels, zeroed and the rest enlarged."""

    def __init__(self, probability: float, pixels: bool = False):
        super().__init__()
        self.probability, self.pixels = probability, pixels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        shape = (len(x), 1, *x.shape[2:]) if self.pixels else (len(x), 1, 1, 1)
        return x * (x.new_empty(shape).bernoulli_(1 - self.probability) / (1 - self.probability))


class Attend(nn.Module):
    """Values (B, V, K) mixed by a softmax over the keys of logits (B, heads, Q, K): (B, V, Q)."""

    purpose = purposes.ATTENTION

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, logits: Tensor, values: Tensor) -> Tensor:
        weights = self.dropout(logits.softmax(-1))
        return (values.unflatten(1, (logits.shape[1], -1)) @ weights.transpose(2, 3)).flatten(1, 2)

    def exact(self, logits: torch.Size, *_: torch.Size) -> nn.Module:
        return exact.ExactAttend(logits[3])


def dots(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Logits (B, heads, Q, K) of queries (B, C, Q) and keys (B, C, K): products over the root of a head's width."""
    scale = (key.shape[1] // heads) ** -0.5
    return query.unflatten(1, (heads, -1)).transpose(2, 3) @ (key * scale).unflatten(1, (heads, -1))


def abreast(*layers: nn.Module) -> nn.Conv2d:
    """One 1x1 convolution that gives the channels of all of these, which read the same map."""
    chained = [chain(layer) for layer in layers]
    return conv1x1(
        torch.cat([layer.weight[:, :, 0, 0] for layer in chained]),
        torch.cat([layer.bias for layer in chained if layer.bias is not None]),
    )


class Queries(nn.Module):
    """One task's learned queries, and what is added where they are queries and where they are keys."""

    def __init__(self, width: int, count: int, heads: int):
        super().__init__()
        self.heads = heads
        self.tokens = nn.Parameter(torch.empty(1, count, width))
        self.query_position = nn.Parameter(torch.empty(1, count, 1, width // heads))
        self.key_position = nn.Parameter(torch.empty(1, count, 1, width // heads))
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)

    def start(self) -> Tensor:
        """The queries as a map (1, width, N, 1)."""
        return self.tokens.transpose(1, 2)[..., None]

    def placed(self) -> Tensor:
        """The same with their positions as queries."""
        return self.start() + self._every_head(self.query_position)

    def keys(self, tokens: Tensor) -> Tensor:
        """Tokens (B, width, N, 1) with their positions as keys."""
        return tokens + self._every_head(self.key_position)

    def _every_head(self, position: Tensor) -> Tensor:
        return position.expand(-1, -1, self.heads, -1).flatten(2).transpose(1, 2)[..., None]


class Encoder(nn.Module):
    """A task's queries (B, width, N, 1) after attending to its pixels."""

    def __init__(self, width: int, keys: int, heads: int, hidden: int, scaled: bool, activation: str, drop: float):
        super().__init__()
        self.heads = heads
        self.norm = _standard(width)
        self.query = Projection(width, keys)
        self.key = Projection(width, keys, scaled=scaled)
        self.value = Projection(width, width, scaled=scaled)
        self.attend = Attend()
        self.out = nn.Conv2d(width, width, 1)
        self.learn = Projection(width, width, axes=1)
        self.mlp = Mlp(width, hidden, "layer", activation)
        self.drop = DropPath(drop)

    def logits(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Weight (heads * N, width) and bias of the 1x1 convolution that gives a task's logits.

        Its queries do not depend on the image: with the keys' projection they are one linear map.
        """
        query = self.query(self.norm(queries.placed()))[0, :, :, 0]
        query = (query * (len(query) // self.heads) ** -0.5).unflatten(0, (self.heads, -1)).transpose(1, 2)
        weight, bias = (x.unflatten(0, (self.heads, -1)) for x in self.key.matrix())
        return (query @ weight).flatten(0, 1), (query @ bias[..., None]).flatten()

    def forward(self, x: Tensor, logits: Tensor, queries: Queries) -> Tensor:
        values, logits = self.value(x).flatten(2), logits.flatten(2).unflatten(1, (self.heads, -1))
        return self.learned(queries.start(), self.out(self.attend(logits, values)[..., None]))

    def learned(self, tokens: Tensor, read: Tensor) -> Tensor:
        """Tokens (B, width, N, 1) after this was read, of the same shape."""
        tokens = tokens + self.drop(read)
        tokens = tokens + self.learn(self.norm(tokens))
        return tokens + self.drop(self.mlp(tokens))


class CrossTask(nn.Module):
    """Every task's queries after attending over those of all tasks, (B, width, T * N, 1)."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, drop: float, dropout: float):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.attend = Attend(dropout)
        self.out = nn.Conv2d(width, width, 1)
        self.norm = TokenNorm(width)
        self.mlp = Mlp(width, hidden, "layer", activation)
        self.drop = DropPath(drop, pixels=True)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        return self.learned(x, self.attend(dots(query, key, self.heads), value))

    def learned(self, x: Tensor, read: Tensor) -> Tensor:
        """The same of what the queries read of each other (B, width, N)."""
        x = x + self.drop(self.out(read[..., None]))
        return x + self.drop(self.mlp(self.norm(x)))


class Itself(nn.Module):
    """The self-attention of a single token (B, width, h, w).

    At one image the published self-attention has a single key: its softmax is 1 and what remains is value and output
    projection. Query and key weights have no effect; they are kept (`query_key`) for checkpoints and counts to agree.
    """

    def __init__(self, width: int, query_key: bool):
        super().__init__()
        self.query_key = nn.Conv2d(width, 2 * width, 1).requires_grad_(False) if query_key else None
        self.value = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.value(x))

    def merge(self, *shapes: torch.Size) -> nn.Module:
        return chain(self.value, self.out)


class Decoder(nn.Module):
    """A task's pixels (B, width, h, w) after reading its queries."""

    def __init__(
        self, width: int, keys: int, heads: int, hidden: int, norm: str, activation: str, drop: float, query_key: bool
    ):
        super().__init__()
        self.heads = heads
        self.norm = _standard(width)
        self.query = Projection(width, keys, scaled=norm == "layer")
        self.key = Projection(width, keys)
        self.value = Projection(width, width)
        self.attend = Attend()
        self.out = nn.Conv2d(width, width, 1)
        self.mlp = Mlp(width, hidden, norm, activation)
        self.itself = Itself(width, query_key)
        self.last_mlp = Mlp(width, hidden, norm, activation)
        self.active = _activation(activation)
        self.drop = DropPath(drop)

    def forward(self, x: Tensor, standard: Tensor, tokens: Tensor, queries: Queries) -> Tensor:
        key = self.key(self.norm(queries.keys(tokens))).flatten(2)
        value = self.value(self.norm(tokens)).flatten(2)
        return self.learned(x, self.attend(dots(self.query(standard).flatten(2), key, self.heads), value))

    def learned(self, x: Tensor, read: Tensor) -> Tensor:
        """The same of what each pixel read (B, width, h * w)."""
        y = x + self.drop(self.out(read.unflatten(2, x.shape[2:])))
        y = y + self.drop(self.mlp(y))
        y = x + self.drop(self.itself(y))  # from x again, as published
        return self.active(y + self.drop(self.last_mlp(y)))


class Block(nn.Module):
    """Each task's map (B, width, h, w) after three steps.

    Its queries attend to it, all tasks' queries attend to each other, and its pixels attend to its queries. One encoder
    and one decoder serve all tasks.
    """

    def __init__(self, tasks: dict[str, int], count: int, encoder: Encoder, cross: CrossTask, decoder: Decoder):
        super().__init__()
        width, heads, scaled = cross.query.in_channels, cross.heads, encoder.key.scale is not None
        self.norm = _standard(width) if scaled else nn.Identity()
        self.queries = nn.ModuleDict({t: Queries(width, count, heads) for t in tasks})
        self.logits = nn.ModuleDict()
        self.encoder, self.cross, self.decoder = encoder, cross, decoder

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        standard = {task: self.norm(x) for task, x in maps.items()}
        answers = [self.encoder(x, self._logits(task, x), self.queries[task]) for task, x in standard.items()]
        tokens = self.cross(torch.cat(answers, 2)).chunk(len(maps), 2)
        return {
            task: self.decoder(x, standard[task], shared, self.queries[task])
            for (task, x), shared in zip(maps.items(), tokens, strict=True)
        }

    def _logits(self, task: str, x: Tensor) -> Tensor:
        if task in self.logits:
            return self.logits[task](x)
        queries = self.queries[task]
        assert isinstance(queries, Queries)
        weight, bias = self.encoder.logits(queries)
        return F.conv2d(x, weight[:, :, None, None], bias)

    def merge(self, *shapes: torch.Size) -> nn.Module:
        for task, queries in self.queries.items():
            assert isinstance(queries, Queries)
            self.logits[task] = conv1x1(*self.encoder.logits(queries))
        del self.encoder.query, self.encoder.key
        return self

    def exact(self, *shapes: torch.Size) -> nn.Module:
        return exact.ExactBlock(self)


class MQTransformer(nn.Module):
    """The network: backbone, a fusion per task, blocks of queries, heads.

    `queries` is their number for each task. `key_width` 0 is `width`. `token_hidden` and `pixel_hidden` are the hidden
    widths of the queries' and the pixels' layers: 0 is `width`, and 3 * `width`. `head_width` 0 is a quarter of
    `width`. With `fuse_stride` 8 the heads get the first stage added back at stride 4. With `norm` batch a BatchNorm
    follows the fusion, and only queries keep LayerNorm. `drop` and `task_drop` are shares of paths dropped in training,
    `dropout` is that of the cross-task attention's weights.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: dict[str, int],
        width: int = 256,
        queries: int = 64,
        heads: int = 4,
        depth: int = 1,
        key_width: int = 0,
        token_hidden: int = 0,
        pixel_hidden: int = 0,
        head_width: int = 0,
        fuse_stride: int = 4,
        norm: Literal["layer", "batch"] = "layer",
        activation: Literal["gelu", "relu"] = "gelu",
        keep_query_key: bool = True,
        drop: float = 0.1,
        task_drop: float = 0.5,
        dropout: float = 0.1,
    ):
        super().__init__()
        keys, tokens, pixels = key_width or width, token_hidden or width, pixel_hidden or 3 * width
        for name, value in {"queries": queries, "heads": heads, "depth": depth}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if width % heads or keys % heads:
            raise ValueError(f"heads={heads} must divide width={width} and key_width={keys}")
        if fuse_stride not in backbone.strides:
            raise ValueError(f"fuse_stride={fuse_stride}: the backbone has strides {backbone.strides}")
        for name, share in {"drop": drop, "task_drop": task_drop, "dropout": dropout}.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name}={share} must be in [0, 1)")
        layer, out = norm == "layer", head_width or width // 4
        self.backbone, self.width = backbone, width
        self.fuse_at = backbone.strides.index(fuse_stride)
        self.fusions = nn.ModuleDict({t: Fusion(backbone.channels, width, None if layer else norm) for t in tasks})
        self.blocks = nn.ModuleList(
            Block(
                tasks,
                queries,
                Encoder(width, keys, heads, tokens, layer, activation, drop),
                CrossTask(width, heads, tokens, activation, task_drop, dropout),
                Decoder(width, keys, heads, pixels, norm, activation, drop, keep_query_key),
            )
            for _ in range(depth)
        )
        coarse = self.fuse_at > 0
        self.details = nn.ModuleDict({t: Detail(width, backbone.channels[0], out) for t in tasks} if coarse else {})
        self.heads = nn.ModuleDict({t: Head(out if coarse else width, out, c) for t, c in tasks.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(image)
        size = maps[self.fuse_at].shape[2:]
        each = len(self.heads) // len(self.fusions)  # tasks: 1, but all in deployment
        fused = [x for fusion in self.fusions.values() for x in fusion(maps, size).chunk(each, 1)]
        x = dict(zip(self.heads, fused, strict=True))
        for block in self.blocks:
            x = block(x)
        if self.details:
            x = {task: self.details[task](y, maps[0]) for task, y in x.items()}
        return {task: self.heads[task](y) for task, y in x.items()}

    def merge(self, *shapes: torch.Size) -> nn.Module:
        """All tasks' fusions become one, which reads and enlarges each stage once."""
        joint = Fusion(self.backbone.channels, self.width * len(self.heads), None)
        fusions = [fusion for fusion in self.fusions.values() if isinstance(fusion, Fusion)]
        assert all(isinstance(fusion.norm, nn.Identity) for fusion in fusions)
        stages = zip(*(fusion.stages for fusion in fusions), strict=True)
        joint.stages = nn.ModuleList(abreast(*same) for same in stages)
        self.fusions = nn.ModuleDict({"all": joint})
        return self


network = MQTransformer
