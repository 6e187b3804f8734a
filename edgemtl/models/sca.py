"""SCA-MTL: Sequential Cross Attention Based Multi-task Learning (Kim, Choi, Min; ICIP 2022).

https://arxiv.org/abs/2209.02518. The defaults are the published code's network on HRNet18-S: at every scale windowed
self-attention, a refinement per task with logits of its own (deep supervision) and an exchange between tasks (CTAM);
attentive propagation to the next finer scale (FPMA); in each task's head an exchange between scales (CSAM). A device
variant is the same code with other numbers: the finest scale left out, narrow scales, separable convolutions, one
projection per task where the paper has one per pair of tasks.

What differs from the published code: widths follow the backbone, instead of being those of one backbone. A coarse map
is enlarged to the finer one's exact size, so that images of any size can be used. The windows' MLP norms, which nothing
reads, are left out. CSAM has one query for all coarser scales, and the heads project each scale before enlarging it,
which gives the same sums with fewer products. The backbone's BatchNorms are timm's (momentum 0.1, theirs 0.01). With a
single task the published network does not run. Here CTAM then adds nothing, and FPMA's softmax over tasks, which is 1,
is left out.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn

from edgemtl.models import _sca_exact as exact
from edgemtl.networks import purposes
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.layers import Detail, Fusion, Resize, TokenNorm

PROPAGATION_HEADS = 4
MASKED = -100.0  # what Swin adds to the logits of tokens that the shift brought into one window


class WindowAttend(nn.Module):
    """Attention of the n tokens of each window to each other: (N, heads, D, n) of queries, keys and values alike.

    `bias` (W, heads, n, n) is added to the logits; N is W windows (or 1 for all), outermost, times anything.
    """

    purpose = purposes.ATTENTION

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        logits = (query * query.shape[2] ** -0.5).transpose(2, 3) @ key
        weights = (logits.unflatten(0, (len(bias), -1)) + bias[:, None]).softmax(-1).flatten(0, 1)
        return value @ weights.transpose(2, 3)


class WindowBlock(nn.Module):
    """The map (B, width, h, w) plus self-attention within windows of it: a Swin block without its MLP.

    The map is padded to whole windows before it is shifted. No tensor has more than five axes: Core ML's limit.
    """

    bias: Tensor | None

    def __init__(self, width: int, heads: int, window: int, shift: int, drop_path: float):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm = TokenNorm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.table: nn.Parameter | None = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        trunc_normal_(self.table, std=0.02)
        self.attend = WindowAttend()
        self.project = nn.Conv2d(width, width, 1)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.register_buffer("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        (batch, width, h, w), n = x.shape, self.window
        y = _rolled(F.pad(self.norm(x), (0, -w % n, 0, -h % n)), self.shift)
        rows, columns = y.shape[2] // n, y.shape[3] // n
        bias = self._bias(rows, columns) if self.bias is None else self.bias
        windows = self.qkv(y).reshape(-1, rows, n, columns, n).permute(1, 3, 0, 2, 4)
        query, key, value = windows.reshape(rows * columns * batch, 3, self.heads, -1, n * n).unbind(1)
        y = self.attend(query, key, value, bias).reshape(rows, columns, batch * width, n, n)
        y = self.project(y.permute(2, 0, 3, 1, 4).reshape(batch, width, rows * n, columns * n))
        return x + self.drop_path(_rolled(y, -self.shift)[:, :, :h, :w])

    def _bias(self, rows: int, columns: int) -> Tensor:
        """What rows x columns windows add to their logits: learned by relative position; other regions are masked."""
        assert self.table is not None
        n, device = self.window, self.table.device
        pixels = torch.cartesian_prod(*[torch.arange(n, device=device)] * 2)
        apart = pixels[:, None] - pixels + n - 1
        bias = self.table[apart[..., 0] * (2 * n - 1) + apart[..., 1]].permute(2, 0, 1)[None]
        if not self.shift:
            return bias
        down, across = (self._regions(count * n, device) for count in (rows, columns))
        regions = (3 * down[:, None] + across).reshape(rows, n, columns, n).transpose(1, 2).reshape(-1, 1, n * n, 1)
        return bias + MASKED * (regions != regions.transpose(2, 3)).to(bias.dtype)

    def _regions(self, length: int, device: torch.device) -> Tensor:
        place = torch.arange(length, device=device)
        return (place >= length - self.window).long() + (place >= length - self.shift).long()

    def merge(self, shape: torch.Size) -> nn.Module:
        self.bias = self._bias(-(-shape[2] // self.window), -(-shape[3] // self.window)).detach()
        self.table = None
        return self

    def exact(self, shape: torch.Size) -> nn.Module:
        assert self.bias is not None and self.qkv.bias is not None
        queries = slice(0, self.project.in_channels)  # of which the root of a head's width is no power of two
        for parameter in (self.qkv.weight, self.qkv.bias):
            parameter[queries] *= (self.project.in_channels // self.heads) ** -0.5
        visible = self.bias > MASKED / 2
        mask = None if visible.all() else visible.all(1, keepdim=True).float()
        self.bias = ((torch.where(visible, self.bias, 0.0) / exact.BIAS).round() * exact.BIAS).detach()
        self.attend = exact.ExactWindowAttend(self.window**2, mask)  # type: ignore[assignment]
        return self


def _rolled(x: Tensor, steps: int) -> Tensor:
    """The map (B, C, h, w) rolled up and left, by slices: not every runtime has an operator for that."""
    for axis in (2, 3) if steps else ():
        steps_in = steps % x.shape[axis]
        x = torch.cat([x.narrow(axis, steps_in, x.shape[axis] - steps_in), x.narrow(axis, 0, steps_in)], axis)
    return x


class SelfAttention(nn.Module):
    """A small Swin on the map (B, width, h, w): each token embedded and normalised, blocks, normalised."""

    def __init__(self, width: int, heads: int, window: int, blocks: int):
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(width, width, 1), TokenNorm(width))
        rates = [0.2 * i / max(1, blocks - 1) for i in range(blocks)]
        self.blocks = nn.Sequential(
            *(WindowBlock(width, heads, window, window // 2 * (i % 2), rate) for i, rate in enumerate(rates))
        )
        self.norm = TokenNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.embed(x)))


def _conv3x3(channels: int, width: int, separable: bool) -> nn.Module:
    if not separable:
        return nn.Conv2d(channels, width, 3, padding=1, bias=False)
    each = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(each, nn.Conv2d(channels, width, 1, bias=False))


class Residual(nn.Module):
    """ResNet's basic block: (B, width, h, w) of (B, channels, h, w); `project`: the shortcut is a 1x1 convolution."""

    def __init__(self, channels: int, width: int, separable: bool, project: bool, momentum: float = 0.1):
        super().__init__()
        self.conv1: nn.Module = _conv3x3(channels, width, separable)
        self.bn1 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv2 = _conv3x3(width, width, separable)
        self.bn2 = nn.BatchNorm2d(width, momentum=momentum)
        self.shortcut = nn.Sequential()
        if project:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


def _point(channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return [conv, nn.BatchNorm2d(channels)]


def _projected(channels: int) -> nn.Sequential:
    return nn.Sequential(*_point(channels), nn.ReLU(), *_point(channels))


class Summarise(nn.Module):
    """What linear attention keeps of a source: mean key (B, C, 1) and mean product of keys and values (B, C, C).

    Means where the paper has sums: their ratio is the same, and float16 holds them for maps of any size.
    """

    purpose = purposes.ATTENTION

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        count = key.shape[2] * key.shape[3]
        keys = F.softplus(key).flatten(2)
        shared = (keys * count**-0.5) @ (value.flatten(2) * count**-0.5).transpose(1, 2)
        return keys.mean(2, keepdim=True), shared

    def exact(self, key: torch.Size, value: torch.Size) -> nn.Module:
        return exact.ExactSummarise(key[2] * key[3])


class Read(nn.Module):
    """Linear attention's answers (B, N * C, h, w) to a query (B, C, h, w), one for each of N summaries.

    An answer is the summary's values, weighted by how well its keys fit the query.
    """

    purpose = purposes.ATTENTION

    def forward(self, query: Tensor, summaries: list[tuple[Tensor, Tensor]]) -> Tensor:
        queries = F.softplus(query).flatten(2).transpose(1, 2)
        below, above = (queries @ torch.cat(parts, 2) for parts in zip(*summaries, strict=True))
        answer = above.unflatten(2, (len(summaries), -1)) / below.clamp(min=1e-12).unsqueeze(3)
        return answer.flatten(2).transpose(1, 2).unflatten(2, query.shape[2:])

    def exact(self, query: torch.Size, *shapes: torch.Size) -> nn.Module:
        return exact.ExactRead(query[1])


class SummarySource(nn.Module):
    """The summary of a map (B, C, h, w) that other maps may read."""

    def __init__(self, channels: int):
        super().__init__()
        self.key = _projected(channels)
        self.value = nn.Sequential(*_point(channels), nn.ReLU())
        self.attend = Summarise()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.attend(self.key(x), self.value(x))


class Exchange(nn.Module):
    """Cross-task attention (CTAM) at one scale: each task's map (B, width, h, w) plus what it takes from the others'.

    `pairwise` gives each ordered pair of tasks projections of its own and, as published, brings the task's own map
    along with every answer. Otherwise a task asks with one query, is read through one summary, and its map comes once.
    """

    def __init__(self, tasks: Sequence[str], width: int, separable: bool, pairwise: bool):
        super().__init__()
        self.pairwise = self.repeated = pairwise
        pairs = [(task, other) for task in tasks for other in tasks if other != task]
        readers = dict.fromkeys(f"{task}_from_{other}" if pairwise else task for task, other in pairs)
        sources = dict.fromkeys(f"{task}_from_{other}" if pairwise else other for task, other in pairs)
        self.queries = nn.ModuleDict({name: _projected(width) for name in readers})
        self.sources = nn.ModuleDict({name: SummarySource(width) for name in sources})
        self.attend = Read()
        parts = 2 * (len(tasks) - 1) if pairwise else len(tasks)
        self.width = width
        self.reduce = Residual(parts * width, width, separable, True, 0.01) if pairs else None

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.reduce is None:
            return maps
        if not self.pairwise:
            queries = {task: self.queries[task](x) for task, x in maps.items()}
            sources = {task: self.sources[task](x) for task, x in maps.items()}
        exchanged = {}
        for task, x in maps.items():
            parts = [] if self.repeated else [x]
            others = [name for name in reversed(maps) if name != task]
            if not self.pairwise:
                parts.append(self.attend(queries[task], [sources[other] for other in others]))
            for other in others if self.pairwise else ():
                pair = f"{task}_from_{other}"
                answer = self.attend(self.queries[pair](x), [self.sources[pair](maps[other])])
                parts += [x, answer] if self.repeated else [answer]
            exchanged[task] = x + self.reduce(torch.cat(parts, 1))
        return exchanged

    def merge(self, *shapes: torch.Size) -> nn.Module:
        if self.repeated and self.reduce is not None and isinstance(self.reduce.conv1, nn.Conv2d):
            self.reduce.conv1 = _reads_once(self.reduce.conv1, self.width)
            self.reduce.shortcut[0] = _reads_once(self.reduce.shortcut[0], self.width)
            self.repeated = False
        return self


def _reads_once(conv: nn.Module, width: int) -> nn.Conv2d:
    """The convolution of [x, a, b, ...] that this one is of [x, a, x, b, ...], each `width` channels."""
    assert isinstance(conv, nn.Conv2d) and conv.groups == 1
    weight = conv.weight.detach().double().unflatten(1, (-1, 2, width))
    weight = torch.cat([weight[:, :, 0].sum(1), weight[:, :, 1].flatten(1, 2)], 1).to(conv.weight.dtype)
    merged = nn.Conv2d(weight.shape[1], weight.shape[0], conv.kernel_size, padding=conv.padding, bias=False)  # type: ignore[arg-type]
    merged.weight, merged.bias = nn.Parameter(weight), conv.bias
    return merged.requires_grad_(False)


class Squeeze(nn.Module):
    """Squeeze-and-excitation: the map (B, C, h, w), each channel scaled by what the means of all say."""

    def __init__(self, channels: int):
        super().__init__()
        narrow = max(1, channels // 16)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x.mean((2, 3), keepdim=True))

    def exact(self, shape: torch.Size) -> nn.Module:
        return exact.ExactSqueeze(self.layers, shape[2] * shape[3])


class Weigh(nn.Module):
    """The map (B, C, h, w), every `count` consecutive channels weighed by the softmax of their logits."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        groups = (-1, self.count)
        return (logits.unflatten(1, groups).softmax(2) * x.unflatten(1, groups)).flatten(1, 2)

    def exact(self, shape: torch.Size, *_: torch.Size) -> nn.Module:
        return exact.ExactWeigh(self.count)


class Propagate(nn.Module):
    """Attentive feature propagation (FPMA): each task's map (B, width, h, w) plus a map that all tasks share.

    That is the tasks' concatenation, weighed by attention. Of M tasks, the softmax is over M consecutive channels of
    the concatenation, as published: mostly channels of one task, not one channel of each.
    """

    def __init__(self, tasks: Sequence[str], width: int, window: int, separable: bool):
        super().__init__()
        total = len(tasks) * width
        self.attention = SelfAttention(total, PROPAGATION_HEADS, window, 1) if len(tasks) > 1 else None
        self.weigh = Weigh(len(tasks))
        self.reduce = Residual(total, width, separable, True)
        self.squeeze = nn.ModuleDict({task: Squeeze(width) for task in tasks})

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        shared = torch.cat(list(maps.values()), 1)
        if self.attention is not None:
            shared = self.weigh(shared, self.attention(shared))
        shared = self.reduce(shared)
        return {task: self.squeeze[task](shared) + x for task, x in maps.items()}


class Refine(nn.Module):
    """A task's map (B, width, h, w) at one scale, and from it the deep-supervision logits."""

    def __init__(self, channels: int, width: int, blocks: int, separable: bool, outputs: int):
        super().__init__()
        widths = [channels] + [width] * blocks
        self.blocks = nn.Sequential(*(Residual(a, b, separable, a != b) for a, b in zip(widths, widths[1:])))
        self.logits = nn.Conv2d(width, outputs, 1) if outputs else None

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class CrossScaleHead(nn.Module):
    """A task's raw output (B, outputs, h, w) from its maps, finest first: each reads all coarser ones (CSAM).

    With `detail`, the channels of the backbone's first stage, that stage is added back at its own size.
    """

    def __init__(self, widths: Sequence[int], head_width: int, outputs: int, detail: int, separable: bool):
        super().__init__()
        self.widths, self.repeated = widths, True
        self.queries = nn.ModuleList(_projected(width) for width in widths[:-1])
        self.sources = nn.ModuleList(SummarySource(width) for width in widths[:-1])
        self.narrow = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Conv2d(coarse, width, 1, bias=False), nn.BatchNorm2d(width))
                for coarse in widths[k + 1 :]
            )
            for k, width in enumerate(widths[:-1])
        )
        self.attend = nn.ModuleList(Read() for _ in widths[:-1])
        parts = [2 * (len(widths) - 1 - k) * width for k, width in enumerate(widths[:-1])]
        out = head_width or sum(parts) + widths[-1]
        self.fusion = Fusion([*parts, widths[-1]], out, "batch")
        self.detail = Detail(out, detail, out) if detail else None
        self.conv = nn.Sequential(_conv3x3(out, out, separable), nn.BatchNorm2d(out), nn.ReLU()) if detail else None
        self.logits = nn.Conv2d(out, outputs, 1)
        self.leave: nn.Module = nn.Identity()  # in the exact form a Point, where what follows needs codes

    def forward(self, maps: list[Tensor], stage: Tensor) -> Tensor:
        aggregate = []
        layers = zip(self.queries, self.sources, self.narrow, self.attend, strict=True)
        for k, (query, source, narrow, attend) in enumerate(layers):
            assert isinstance(narrow, nn.ModuleList)
            coarser = [source(layer(x)) for layer, x in zip(narrow, maps[k + 1 :], strict=True)]
            answers = attend(query(maps[k]), coarser)
            parts = [answers] if not self.repeated else answers.chunk(len(coarser), 1)
            repeated = [maps[k]] * len(parts)  # before each answer as published, or once
            aggregate.append(torch.cat([x for both in zip(repeated, parts, strict=True) for x in both], 1))
        x = F.relu(self.fusion([*aggregate, maps[-1]], (maps[0].shape[2], maps[0].shape[3])))
        if self.detail is not None and self.conv is not None:
            x = self.conv(self.detail(x, stage))
        return self.leave(self.logits(x))

    def merge(self, *shapes: torch.Size) -> nn.Module:
        for k, width in enumerate(self.widths[:-1]):
            self.fusion.stages[k] = _reads_once(self.fusion.stages[k], width)
        self.repeated = False
        return self


class SCA(nn.Module):
    """The network: {task: raw (B, C, h, w)}, in training {task: [raw, then every scale's own, finest first]}.

    `strides` are the scales in use, () for all of the backbone's; without the first, the heads get it added back.
    `widths` are the scales' channels, () for twice the stages'. `heads` and `window` are those of the self-attention,
    `blocks` is the number of residual blocks of each task at each scale, whose 3x3 convolutions may be `separable`.
    `pairwise` is CTAM's (see Exchange). `head_width` 0 is the number of channels that a head aggregates. Without
    `deep_supervision` training gives plain maps, and scales have no logits.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: dict[str, int],
        strides: Sequence[int] = (),
        widths: Sequence[int] = (),
        heads: int = 6,
        window: int = 7,
        blocks: int = 2,
        separable: bool = False,
        pairwise: bool = True,
        head_width: int = 0,
        deep_supervision: bool = True,
    ):
        super().__init__()
        strides = list(strides or backbone.strides)
        if not all(stride in backbone.strides for stride in strides) or strides != sorted(set(strides)):
            raise ValueError(f"strides={strides}: some of the backbone's {backbone.strides}, in that order")
        channels = [backbone.channels[backbone.strides.index(stride)] for stride in strides]
        if widths and (len(widths) != len(strides) or any(width < 2 or width % 2 for width in widths)):
            raise ValueError(f"widths={list(widths)}: an even number of channels for each of the strides {strides}")
        if window < 2 or blocks < 1 or head_width < 0:
            raise ValueError(
                f"window={window} must be at least 2, blocks={blocks} at least 1, head_width={head_width} at least 0"
            )
        self.backbone = backbone
        self.stages = [backbone.strides.index(stride) for stride in strides]
        self.deep_supervision = deep_supervision
        self.narrow = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width // 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU())
            for c, width in zip(channels, widths)
        )
        widths = list(widths) or [2 * c for c in channels]
        for k, width in enumerate(widths):
            if heads < 1 or width // 2 % heads:
                raise ValueError(f"heads={heads} must divide a scale's {width // 2} channels")
            if k and len(tasks) > 1 and len(tasks) * width % PROPAGATION_HEADS:
                raise ValueError(f"{len(tasks)} tasks' {width} channels do not divide into {PROPAGATION_HEADS} heads")
        self.attention = nn.ModuleList(SelfAttention(width // 2, heads, window, 2) for width in widths)
        self.refine = nn.ModuleList(
            nn.ModuleDict(
                {
                    task: Refine(sum(widths[k : k + 2]), width, blocks, separable, outputs if deep_supervision else 0)
                    for task, outputs in tasks.items()
                }
            )
            for k, width in enumerate(widths)
        )
        self.exchange = nn.ModuleList(Exchange(list(tasks), width, separable, pairwise) for width in widths)
        self.propagate = nn.ModuleList(Propagate(list(tasks), width, window, separable) for width in widths[1:])
        self.resizes = nn.ModuleList(nn.ModuleDict({task: Resize() for task in tasks}) for _ in widths[1:])
        detail = backbone.channels[0] if self.stages[0] else 0
        self.heads = nn.ModuleDict(
            {task: CrossScaleHead(widths, head_width, outputs, detail, separable) for task, outputs in tasks.items()}
        )

    def forward(self, image: Tensor) -> dict[str, Tensor] | dict[str, list[Tensor]]:
        if self.training and self.deep_supervision:
            return self.deep(image)
        stages = self.backbone(image)
        _, exchanged = self._scales(stages)
        return self._final(exchanged, stages[0])

    def deep(self, image: Tensor) -> dict[str, list[Tensor]]:
        """The raw output of each task and, after it, the deep-supervision logits of every scale, finest first."""
        stages = self.backbone(image)
        refined, exchanged = self._scales(stages)
        raws = {task: [raw] for task, raw in self._final(exchanged, stages[0]).items()}
        for layers, maps in zip(self.refine, refined, strict=True):
            assert isinstance(layers, nn.ModuleDict)
            for task, layer in layers.items():
                assert isinstance(layer, Refine) and layer.logits is not None
                raws[task].append(layer.logits(maps[task]))
        return raws

    def _scales(self, stages: list[Tensor]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """Each task's map at each scale, finest first: as refined, and after the exchange between tasks."""
        refined: list[dict[str, Tensor]] = []
        exchanged: list[dict[str, Tensor]] = []
        for k in reversed(range(len(self.stages))):
            layers, x = self.refine[k], stages[self.stages[k]]
            assert isinstance(layers, nn.ModuleDict)
            x = self.narrow[k](x) if self.narrow else x
            x = torch.cat([self.attention[k](x), x], 1)
            inputs = dict.fromkeys(layers, x)
            if exchanged:
                size = (x.shape[2], x.shape[3])
                coarser = self.propagate[k](exchanged[0])
                resizes: Any = self.resizes[k]
                inputs = {task: torch.cat([x, resizes[task](y, size)], 1) for task, y in coarser.items()}
            refined.insert(0, {task: layer(inputs[task]) for task, layer in layers.items()})
            exchanged.insert(0, self.exchange[k](refined[0]))
        return refined, exchanged

    def _final(self, exchanged: list[dict[str, Tensor]], stage: Tensor) -> dict[str, Tensor]:
        return {task: head([x[task] for x in exchanged], stage) for task, head in self.heads.items()}

    def merge(self, shape: torch.Size) -> nn.Module:
        for layer in self.refine.modules():
            if isinstance(layer, Refine):
                layer.logits = None
        return self


network = SCA
