"""DeMT: Deformable Mixer Transformer for Multi-Task Learning of Dense Prediction (Xu, Yang, Zhang; AAAI 2023).

https://arxiv.org/abs/2301.03461. The defaults are the paper's network; a device variant is the same code with other
numbers: fusion at stride 8, narrow keys, few offset groups, and layers that fold (BatchNorm before ReLU).

What differs from the published code: its attention ran over the batch axis, so that results depended on the other
images of the batch. This code computes what that one computes for one image: the interaction is a linear map of each
token, and the task query attends over the task tokens of its own pixel. Linear layers are 1x1 convolutions, and the
fusion projects each stage before enlarging it, which gives the same sum with far fewer products.
"""

from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.ground.errors import UsageError
from edgemtl.networks import positions, purposes
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.chains import chain, conv1x1
from edgemtl.networks.exact import scale_of
from edgemtl.networks.layers import Detail, Fusion, Gelu, Head, norm2d
from edgemtl.networks.points import Point
from edgemtl.ops import deform_conv2d

# Of the exact form. At eighths of a pixel bilinear weights are multiples of 1/64. With half of 1/64 of a code added, a
# sampled value is at least 1/128 of a code from a tie: more than float32's error in a position or a product. That grows
# with the map: from 147 rows and columns together on it takes quarters.
PIXEL = 2.0**-3
SHARE = 2.0**-7  # step of an attention weight, and of the powers of e that it is made of
# Shares are e / sum with whole numbers e <= 127 and sum <= 127 T: 256 e / sum is an odd number or at least 1 / (127 T)
# from it, of T tokens 8 at the most. Half of half of that, in shares.
SHARE_NUDGE = SHARE / 2**12


def _active(layer: nn.Module, width: int, activation: str) -> nn.Sequential:
    """The layer with its activation and BatchNorm; ReLU comes last, so that the norm folds into the layer."""
    if activation == "gelu":
        return nn.Sequential(layer, Gelu(), nn.BatchNorm2d(width))
    if activation == "relu":
        return nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU())
    raise ValueError(f"activation={activation!r}: gelu or relu")


class Coordinates(nn.Module):
    """What the offset network adds to its learned 18 channels: absolute position plus a 3x3 grid, (1, 18, h, w).

    Channels 0-8 are rows, 9-17 columns, counted from 1.
    """

    purpose = purposes.COORDINATES

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        step = torch.arange(-1.0, 2.0, device=x.device)
        rows = torch.arange(1.0, h + 1, device=x.device)[None, :, None] + step.repeat_interleave(3)[:, None, None]
        columns = torch.arange(1.0, w + 1, device=x.device)[None, None, :] + step.repeat(3)[:, None, None]
        return torch.cat([rows.expand(9, h, w), columns.expand(9, h, w)])[None]


class Offsets(nn.Module):
    """Sampling offsets (B, 2 * groups, h, w) in pixels, dy and dx alternating, always float32."""

    def __init__(self, width: int, groups: int, gain: float):
        super().__init__()
        self.point = nn.Conv2d(width, 18, 3, padding=1)
        self.coordinates = Coordinates()
        self.mix = nn.Conv2d(18, 2 * groups, 3, padding=1, groups=2)
        nn.init.zeros_(self.point.weight)
        with torch.no_grad():
            for parameter in self.mix.parameters():
                parameter.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        learned = self.point(x)
        device = x.device.type
        with torch.autocast(device, enabled=False) if device != "meta" else nullcontext():  # which has no autocast
            return self.mix(learned.float() + self.coordinates(x))


class Deform(nn.Module):
    """A 1x1 convolution (B, width, h, w) that reads each group of channels at an offset position of its own."""

    takes_norms = True  # a BatchNorm behind it can go into its weight and bias, see edgemtl.networks.prepare

    def __init__(self, width: int, groups: int, gain: float):
        super().__init__()
        plain = nn.Conv2d(width, width, 1)
        self.weight, self.bias = plain.weight, plain.bias
        self.offsets = Offsets(width, groups, gain)

    def forward(self, x: Tensor) -> Tensor:
        return deform_conv2d(x, self.offsets(x), self.weight, self.bias)

    def merge(self, shape: torch.Size) -> nn.Module:
        return Sampler(self, (shape[2], shape[3]))


class Grid(nn.Module):
    """The grid (B * groups, h, w, 2) that GridSample reads, from the learned part (B, 18, h, w) of the offset network.

    That network's last layer has the scaling to [-1, 1] and the order x, y in its weights. Positions are constants.
    Coordinates must stay float32: one step of int8 is a pixel or more.
    """

    purpose = purposes.COORDINATES
    base: Tensor
    position: Tensor

    def __init__(self, offsets: Offsets, size: tuple[int, int]):
        super().__init__()
        h, w = size
        mix = offsets.mix
        self.groups = mix.out_channels // 2
        xy = torch.arange(2 * self.groups).view(-1, 2).flip(1).flatten()
        scale = torch.tensor([2 / w, 2 / h], dtype=torch.float64).repeat(self.groups)
        self.mix = nn.Conv2d(18, 2 * self.groups, 3, padding=1, groups=2).requires_grad_(False)
        assert mix.bias is not None and self.mix.bias is not None
        self.mix.weight.copy_(mix.weight.detach().double()[xy] * scale[:, None, None, None])
        self.mix.bias.copy_(mix.bias.detach().double()[xy] * scale)
        rows, columns = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
        self.register_buffer("base", torch.stack([(2 * columns + 1) / w - 1, (2 * rows + 1) / h - 1]).float()[None])
        self.register_buffer("position", offsets.coordinates(torch.empty(1, 1, h, w)))

    def forward(self, learned: Tensor) -> Tensor:
        offset = self.mix(learned + self.position)
        batch, _, h, w = offset.shape
        return (offset.reshape(batch * self.groups, 2, h, w) + self.base).permute(0, 2, 3, 1)


class Sampler(nn.Module):
    """A Deform in deployment form: one GridSample, then the 1x1 convolution."""

    def __init__(self, deform: Deform, size: tuple[int, int]):
        super().__init__()
        self.point = deform.offsets.point
        self.coordinates: nn.Module = Grid(deform.offsets, size)
        assert deform.bias is not None
        self.project = conv1x1(deform.weight[:, :, 0, 0], deform.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(sample(x, self.coordinates(self.point(x))))

    def exact(self, *shapes: torch.Size) -> nn.Module:
        return ExactSampler(self)


def sample(x: Tensor, grid: Tensor) -> Tensor:
    """What the grid (B * groups, h, w, 2) reads of the map (B, C, h, w), each group of channels by its own grid."""
    split = x.reshape(grid.shape[0], -1, *x.shape[2:])
    values = F.grid_sample(split, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.reshape(x.shape)


def _part(height: int, width: int) -> float:
    """The part of a pixel that positions on a map are multiples of, see `edgemtl.quantization.proof`."""
    part, lost = PIXEL, 255 * (3.5 * (height + width) + 16) * 2.0**-24
    while lost >= part**2 / 2:
        part *= 2
    return part


class ExactGrid(nn.Module):
    """A Grid whose offsets are whole parts of a pixel; the positions they are added to are rounded to the same.

    Of the positions tables are stored, see `positions`: of 128 groups on 107x140 pixels they are a fortieth.
    """

    purpose = purposes.COORDINATES
    rows: Tensor
    columns: Tensor
    base: Tensor
    unit: Tensor

    def __init__(self, grid: Grid):
        super().__init__()
        h, w = grid.position.shape[2:]
        self.groups = grid.groups
        pixels = torch.tensor([w / 2, h / 2], dtype=torch.float64)
        self.mix = nn.Conv2d(18, 2 * grid.groups, 3, padding=1, groups=2, bias=False).requires_grad_(False)
        self.mix.weight.copy_(grid.mix.weight.double() * pixels.repeat(grid.groups)[:, None, None, None])
        assert grid.mix.bias is not None
        fixed = F.conv2d(grid.position.double(), grid.mix.weight.double(), grid.mix.bias.double(), padding=1, groups=2)
        offset = fixed.reshape(grid.groups, 2, h, w) * pixels[:, None, None]
        part = _part(h, w)
        rounded = (offset / part).round() * part / pixels[:, None, None] + grid.base
        for name, table in self._tables(rounded.float()).items():
            self.register_buffer(name, table)
        self.register_buffer("base", self._spread(), persistent=False)
        self.register_buffer("unit", (1 / pixels).float()[None, :, None, None], persistent=False)
        self.learned, self.offset = Point(), Point(part)

    def forward(self, learned: Tensor) -> Tensor:
        offset = self.offset(self.mix(self.learned(learned)))
        batch, _, h, w = offset.shape
        if batch == 1:
            return (offset.reshape(self.groups, 2, h, w) * self.unit + self.base).permute(0, 2, 3, 1)
        split = offset.reshape(batch, self.groups, 2, h, w) * self.unit + self.base
        return split.flatten(0, 1).permute(0, 2, 3, 1)

    def former(self, tensors: dict[str, Tensor], prefix: str) -> None:
        """Makes tables of positions in full, as files of 0.7 and before have them."""
        if (base := tensors.pop(f"{prefix}base", None)) is not None:
            try:
                tensors |= {prefix + name: table for name, table in self._tables(base).items()}
            except ValueError as error:
                raise UsageError(f"{prefix}base has {error}") from None

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.base.copy_(self._spread())

    def _tables(self, base: Tensor) -> dict[str, Tensor]:
        rows, columns = positions.tables(base.cpu().numpy(), self.groups // 2)
        return {"rows": torch.from_numpy(rows), "columns": torch.from_numpy(columns)}

    def _spread(self) -> Tensor:
        tables = self.rows.cpu().numpy(), self.columns.cpu().numpy()
        return torch.from_numpy(positions.spread(tables, self.rows.shape[2], self.columns.shape[3]))


class ExactSampler(nn.Module):
    """A Sampler that reads codes at whole parts of a pixel, and rounds what it read to codes away from any tie."""

    nudge: Tensor

    def __init__(self, sampler: Sampler):
        super().__init__()
        self.data, self.point, self.read = Point(), sampler.point, Point()
        assert isinstance(sampler.coordinates, Grid)
        self.coordinates = ExactGrid(sampler.coordinates)
        self.project = sampler.project
        self.register_buffer("nudge", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.data(x)
        return self.project(self.read(sample(x, self.coordinates(self.point(x))) + self.nudge))

    def settle(self) -> None:
        """Sets what follows from the scale of what is read."""
        step, part = scale_of(self.data), scale_of(self.coordinates.offset)
        if step is not None and part is not None:
            self.nudge.copy_(step * part**2 / 2)


class Mixer(nn.Module):
    """The deformable mixer: a 1x1 convolution mixes channels, a deformable one mixes positions, in either order."""

    def __init__(self, width: int, groups: int, gain: float, activation: str, spatial_first: bool):
        super().__init__()
        self.spatial_first = spatial_first
        self.channel = _active(nn.Conv2d(width, width, 1), width, activation)
        self.spatial = _active(Deform(width, groups, gain), width, activation)

    def forward(self, x: Tensor) -> Tensor:
        if self.spatial_first:
            return self.channel(x + self.spatial(x))
        x = self.channel(x)
        return x + self.spatial(x)


class Interaction(nn.Module):
    """Task interaction on tokens (N, width, h, w), each by itself.

    At one image the published attention has a single key: its softmax is 1 and what remains is value and output
    projection. Query and key weights have no effect; they are kept (`query_key`) for checkpoints and counts to agree.
    """

    def __init__(self, width: int, norm: str, query_key: bool):
        super().__init__()
        self.query_key = nn.Conv2d(width, 2 * width, 1).requires_grad_(False) if query_key else None
        self.value: nn.Module = nn.Conv2d(width, width, 1)
        self.out: nn.Module = nn.Conv2d(width, width, 1)
        self.project: nn.Module = nn.Conv2d(width, width, 1)
        self.norm = norm2d(norm, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.project(self.out(self.value(x))))

    def merge(self, shape: torch.Size) -> nn.Module:
        self.value = chain(self.value, self.out, self.project)
        self.query_key, self.out, self.project = None, nn.Identity(), nn.Identity()
        return self


class Attend(nn.Module):
    """Attention of one query (B, K, h, w) over T tokens at the same pixel: (B, V, h, w), a weighted sum of values.

    Keys (T * B, K, h, w) and values (T * B, V, h, w) are the tokens of all images, task after task. For one image,
    as on a device, the sums over a head's channels and the copies of its weight to them are 1x1 convolutions with
    constants: no map is reshaped, so runtimes keep everything channels-last. In training and for batches, maps are read
    as rows of channels, as they lie in memory, and the backward pass keeps only the inputs.
    """

    purpose = purposes.ATTENTION
    gather: Tensor
    spread: Tensor

    def __init__(self, width: int, key_width: int, heads: int):
        super().__init__()
        head = torch.eye(heads)
        self.scale = (key_width // heads) ** -0.5
        scaled = head.repeat_interleave(key_width // heads, 1) * self.scale
        self.register_buffer("gather", scaled[:, :, None, None], persistent=False)
        self.register_buffer("spread", head.repeat_interleave(width // heads, 0)[:, :, None, None], persistent=False)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if len(query) > 1 or self.training:
            return self._rows(query, keys, values)
        logits = F.conv2d(query * keys, self.gather)
        weights = F.conv2d(logits.softmax(0), self.spread)
        return (weights * values).sum(0, keepdim=True)

    def _rows(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        def rows(x: Tensor) -> Tensor:  # (T or 1, B, h, w, heads, channels of a head)
            return x.permute(0, 2, 3, 1).unflatten(3, (len(self.gather), -1)).unflatten(0, (-1, len(query)))

        values = rows(values)
        logits = (rows(query * self.scale) * rows(keys)).sum(-1, keepdim=True)
        read = (logits.softmax(0).to(values.dtype) * values).sum(0)
        return read.flatten(3).permute(0, 3, 1, 2)

    def exact(self, *shapes: torch.Size) -> nn.Module:
        return ExactAttend(self)


class ExactAttend(nn.Module):
    """An Attend on codes, whose softmax is right in any float32 arithmetic.

    Logits are codes. So are the powers of e of their distances to the largest logit: there are 256 of them, and none is
    near a tie. Their sums are exact, and a quotient of two small whole numbers is either a tie or far from one.
    """

    purpose = purposes.ATTENTION
    gather: Tensor
    spread: Tensor

    def __init__(self, attend: Attend):
        super().__init__()
        self.scale = attend.scale  # which the query's layer takes over
        self.register_buffer("gather", attend.gather / attend.scale, persistent=False)
        self.register_buffer("spread", attend.spread, persistent=False)
        self.query = Point()
        self.logits, self.powers, self.shares = Point(), Point(SHARE), Point(SHARE)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, query = len(query), self.query(query)

        def tokens(x: Tensor) -> Tensor:  # (T, C, h, w) for one image, (T, B, C, h, w) for several
            return x if batch == 1 else x.unflatten(0, (-1, batch))

        def flat(x: Tensor) -> Tensor:
            return x if batch == 1 else x.flatten(0, 1)

        logits = tokens(self.logits(F.conv2d(flat(query * tokens(keys)), self.gather)))
        powers = self.powers((logits - logits.amax(0, keepdim=True)).exp())
        shares = self.shares(powers / powers.sum(0, keepdim=True) + SHARE_NUDGE)
        weights = tokens(F.conv2d(flat(shares), self.spread))
        return (weights * tokens(values)).sum(0, keepdim=batch == 1)


class Project(nn.Module):
    """Keys (N, key_width, h, w) and values (N, width, h, w) of tokens (N, width, h, w)."""

    def __init__(self, width: int, key_width: int):
        super().__init__()
        self.key = nn.Conv2d(width, key_width, 1)
        self.value = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.key(x), self.value(x)

    def exact(self, *shapes: torch.Size) -> nn.Module:
        self.key, self.value = nn.Sequential(self.key, Point()), nn.Sequential(self.value, Point())  # type: ignore[assignment]
        return self


class TaskQuery(nn.Module):
    """What one task takes from all tasks' tokens at each pixel, (B, width, h, w)."""

    def __init__(self, width: int, key_width: int, heads: int, norm: str):
        super().__init__()
        self.query = nn.Conv2d(width, key_width, 1)
        self.attend = Attend(width, key_width, heads)
        self.out: nn.Module = nn.Conv2d(width, width, 1)
        self.project: nn.Module = nn.Conv2d(width, width, 1)
        self.norm = norm2d(norm, width)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return x + self.norm(self.project(self.out(self.attend(self.query(x), keys, values))))

    def merge(self, *shapes: torch.Size) -> nn.Module:
        self.project, self.out = chain(self.out, self.project), nn.Identity()
        return self

    def exact(self, *shapes: torch.Size) -> nn.Module:
        scale = self.attend.scale  # of queries times keys: no power of two
        assert self.query.bias is not None
        self.query.weight.mul_(scale)
        self.query.bias.mul_(scale)
        return self


class Alone(nn.Module):
    """A TaskQuery of a network with one task: over one token the softmax is 1, so query and key have no effect."""

    dropped = "with one task the softmax is over one token, so 1; query and key have no effect and are left out"

    def __init__(self, query: nn.Module):
        super().__init__()
        assert isinstance(query, TaskQuery)
        self.project, self.norm = query.project, query.norm

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return x + self.norm(self.project(values))


class ValueProject(nn.Module):
    """A Project without its keys, for a network that does not read them."""

    def __init__(self, project: nn.Module):
        super().__init__()
        assert isinstance(project, Project)
        self.value = project.value

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = self.value(x)
        return value, value


class Gate(nn.Module):
    """DeMTG's gated MLP on each token (B, width, h, w): half of a wide layer, scaled by the other half, is added.

    Xu et al., Deformable Mixer Transformer with Gating (https://arxiv.org/abs/2308.05721).
    """

    def __init__(self, width: int, norm: str):
        super().__init__()
        self.norm = norm2d(norm, width)
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.gate_norm = norm2d(norm, width)
        self.gate = nn.Conv2d(width, width, 1)
        self.narrow = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.gate.weight)
        assert self.gate.bias is not None
        nn.init.ones_(self.gate.bias)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = F.gelu(self.widen(self.norm(x))).chunk(2, 1)
        return x + self.narrow(value * self.gate(self.gate_norm(gate)))


class DeMT(nn.Module):
    """The network: backbone, fusion, a mixer per task, interaction, a query per task, heads.

    `offset_groups` 0 gives every channel an offset of its own. `head_width` 0 is an eighth of the stages' sum.
    `key_width` 0 is `width`. With `share_keys` all queries read one projection of keys and values.
    With `fuse_stride` 8 the heads get the first stage added back at stride 4.
    `spatial_first` is the mixers' order in the code published before March 2023. `gated` adds DeMTG's shared gated MLP
    after every query; its published networks have depth 2 and 2 heads.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: dict[str, int],
        width: int = 256,
        depth: int = 1,
        heads: int = 4,
        key_width: int = 0,
        share_keys: bool = False,
        offset_groups: int = 0,
        offset_gain: float = 1.0,
        head_width: int = 0,
        fuse_stride: int = 4,
        norm: Literal["layer", "batch"] = "layer",
        activation: Literal["gelu", "relu"] = "gelu",
        keep_query_key: bool = True,
        spatial_first: bool = False,
        gated: bool = False,
    ):
        super().__init__()
        groups, keys = offset_groups or width, key_width or width
        if width % heads or keys % heads:
            raise ValueError(f"heads={heads} must divide width={width} and key_width={keys}")
        if width % groups or groups % 2:
            raise ValueError(f"offset_groups={groups} must be even and divide width={width}")
        if fuse_stride not in backbone.strides:
            raise ValueError(f"fuse_stride={fuse_stride}: the backbone has strides {backbone.strides}")
        out = head_width or sum(backbone.channels) // 8
        self.backbone = backbone
        self.width, self.spatial_first = width, spatial_first
        self.fuse_at = backbone.strides.index(fuse_stride)
        self.fusion = Fusion(backbone.channels, width, norm)
        mixer = (width, groups, offset_gain, activation, spatial_first)
        self.mixers = nn.ModuleDict({t: nn.Sequential(*(Mixer(*mixer) for _ in range(depth))) for t in tasks})
        self.interaction = Interaction(width, norm, keep_query_key)
        self.projections = nn.ModuleDict({t: Project(width, keys) for t in (["shared"] if share_keys else tasks)})
        self.queries = nn.ModuleDict({t: TaskQuery(width, keys, heads, norm) for t in tasks})
        self.gate = Gate(width, norm) if gated else nn.Identity()
        coarse = self.fuse_at > 0
        self.details = nn.ModuleDict({t: Detail(width, backbone.channels[0], out) for t in tasks} if coarse else {})
        self.heads = nn.ModuleDict({t: Head(out if coarse else width, out, c) for t, c in tasks.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(image)
        fused = self.fusion(maps, maps[self.fuse_at].shape[2:])
        mixed = {task: mixer(fused) for task, mixer in self.mixers.items()}
        tokens = self.interaction(torch.cat(list(mixed.values())))
        answers = {name: project(tokens) for name, project in self.projections.items()}
        raw = {}
        for task, x in mixed.items():
            keys, values = answers[task] if task in answers else answers["shared"]
            x = self.gate(self.queries[task](x, keys, values))
            if task in self.details:
                x = self.details[task](x, maps[0])
            raw[task] = self.heads[task](x)
        return raw

    def merge(self, shape: torch.Size) -> nn.Module:
        if isinstance(self.interaction.norm, nn.Identity):  # folded: now linear, and read by projections only
            linear = self.interaction.value
            for project in self.projections.values():
                assert isinstance(project, Project)
                project.key, project.value = chain(linear, project.key), chain(linear, project.value)
            self.interaction.value = nn.Identity()
        if len(self.queries) == 1:
            self.queries = nn.ModuleDict({task: Alone(query) for task, query in self.queries.items()})
            self.projections = nn.ModuleDict(
                {name: ValueProject(project) for name, project in self.projections.items()}
            )
        return self


network = DeMT
