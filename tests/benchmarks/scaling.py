"""How the cost of attention and of the deformable operator grows with the number of pixels.

python tests/benchmarks/scaling.py [--width N] [--heights N ...] [--rounds N] [--svg FILE]

Each part reads and writes maps at stride 4 of images of 3:4, batch 1, four tasks. For every size: the median
processor time of a forward and a backward pass, all sizes in turns, and the bytes kept for the backward pass. The
exponent is the slope of a straight line through the logarithms: 1 where cost is proportional to the number of pixels.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measure
import numpy as np
import torch
from torch import Tensor, nn

from edgemtl.ground import plots, show
from edgemtl.models import demt, mqtransformer, sca

TASKS = ("semseg", "depth", "normals", "edge")
HEADS, QUERIES = 4, 64

Part = Callable[[Tensor], Tensor]


class DemtAttention(nn.Module):
    """DeMT's exchange between tasks: interaction, then one query per task over all tasks' tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.interaction = demt.Interaction(width, "layer", query_key=False)
        self.projections = nn.ModuleList(demt.Project(width, width) for _ in TASKS)
        self.queries = nn.ModuleList(demt.TaskQuery(width, width, HEADS, "layer") for _ in TASKS)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.interaction(torch.cat([x] * len(TASKS)))
        parts = zip(self.queries, self.projections, strict=True)
        return torch.stack([query(x, *project(tokens)) for query, project in parts]).sum(0)


class MqtAttention(nn.Module):
    """MQTransformer's: learned queries read the pixels, read each other and are read by the pixels."""

    def __init__(self, width: int):
        super().__init__()
        encoder = mqtransformer.Encoder(width, width, HEADS, width, True, "gelu", 0.0)
        cross = mqtransformer.CrossTask(width, HEADS, width, "gelu", 0.0, 0.0)
        decoder = mqtransformer.Decoder(width, width, HEADS, 3 * width, "layer", "gelu", 0.0, False)
        self.block = mqtransformer.Block(dict.fromkeys(TASKS, 1), QUERIES, encoder, cross, decoder)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(list(self.block(dict.fromkeys(TASKS, x)).values())).sum(0)


class ScaAttention(nn.Module):
    """SCA-MTL's at one scale: windowed self-attention, then linear attention between each pair of tasks."""

    def __init__(self, width: int):
        super().__init__()
        self.itself = sca.SelfAttention(width, HEADS, 7, 2)
        self.exchange = sca.Exchange(TASKS, width, separable=False, pairwise=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(list(self.exchange(dict.fromkeys(TASKS, self.itself(x))).values())).sum(0)


def deformable(width: int) -> nn.Module:
    """DeMT's deformable convolution, an offset for every channel."""
    return demt.Deform(width, width, 1.0)


PARTS: dict[str, Callable[[int], nn.Module]] = {
    "DeMT attention": DemtAttention,
    "MQTransformer attention": MqtAttention,
    "SCA-MTL attention": ScaAttention,
    "deformable convolution": deformable,
}


def main() -> None:
    parser = measure.options(__doc__, width=64, heights=(120, 168, 240, 336, 480), rounds=7)
    parser.add_argument("--svg", type=Path, help="draws times and memory to this file")
    arguments = parser.parse_args()
    measure.begin(arguments)
    torch.manual_seed(0)
    sizes = {height * height * 4 // 3: (height // 4, height // 3) for height in arguments.heights}  # by pixels of image
    parts = {name: make(arguments.width).train() for name, make in PARTS.items()}
    steps = {
        (name, pixels): partial(both_ways, part, torch.randn(1, arguments.width, *size))
        for name, part in parts.items()
        for pixels, size in sizes.items()
    }
    seconds = {key: times.processor for key, times in measure.in_turns(steps, arguments.rounds).items()}
    kept = {key: measure.saved(run, parts[key[0]]) for key, run in steps.items()}

    largest = max(sizes)
    slopes = {
        name: [exponent({pixels: found[name, pixels] for pixels in sizes}) for found in (seconds, kept)]
        for name in parts
    }
    show.table(
        f"width {arguments.width}, maps of {sizes[min(sizes)]} to {sizes[largest]}, {torch.get_num_threads()} threads",
        ("forward and backward", "processor ms at the largest", "exponent of time", "MiB kept", "exponent of memory"),
        [
            (name, 1000 * seconds[name, largest], slope, kept[name, largest] / 2**20, growth)
            for name, (slope, growth) in slopes.items()
        ],
    )
    if arguments.svg:
        draw(arguments.svg, seconds, kept, slopes)
    lines = [
        {"part": name, "pixels": pixels, "seconds": seconds[name, pixels], "kept_bytes": kept[name, pixels]}
        for name, pixels in steps
    ]
    measure.write(arguments.json, width=arguments.width, points=lines)


def both_ways(part: nn.Module, values: Tensor) -> None:
    """A forward and a backward pass, as inside a network: the input wants a gradient too."""
    x = values.to(memory_format=torch.channels_last).requires_grad_()
    part(x).sum().backward()
    part.zero_grad()


def exponent(costs: dict[int, float]) -> float:
    """The slope of log cost over log pixels."""
    slope, _ = np.polyfit([math.log(pixels) for pixels in costs], [math.log(cost) for cost in costs.values()], 1)
    return float(slope)


def draw(path: Path, seconds: dict, kept: dict, slopes: dict[str, list[float]]) -> None:
    """Two log-log plots beside each other, a thin line of slope 1 under each curve."""
    panels = [
        ("forward and backward pass, processor ms", seconds, 1e-3),
        ("kept for the backward pass, MiB", kept, 2**20),
    ]
    with plots.figure(9, 3.6, columns=2) as (figure, [axes]):
        for panel, (axis, (title, found, unit)) in enumerate(zip(axes, panels, strict=True)):
            for name in slopes:
                points = sorted((pixels, cost / unit) for (part, pixels), cost in found.items() if part == name)
                xs, ys = zip(*points, strict=True)
                axis.loglog(xs, ys, "o-", label=f"{name}, exponent {slopes[name][panel]:.2f}")
                axis.loglog(xs, [ys[0] * x / xs[0] for x in xs], color="0.75", linewidth=0.8, zorder=0)
            axis.set_title(title)
            axis.set_xlabel("pixels of the image")
            axis.set_xticks(xs, [f"{round(math.sqrt(x * 0.75))}x{round(math.sqrt(x / 0.75))}" for x in xs], fontsize=7)
            axis.minorticks_off()
            axis.set_ylim(top=12 * axis.get_ylim()[1])  # room for the legend
            axis.legend(loc="upper left")
        plots.save(figure, path)


if __name__ == "__main__":
    main()
