"""What each layer's int8 costs each task, and the few layers that a budget keeps float.

Each group of layers is measured alone, against the float network: its quantizers are on, all others off. Then the
reference has no rounding error, and the difference comes from this group. (With all quantizers on but one group's, the
difference of two networks with rounding errors would hide it.) Rounding errors of different layers are nearly
independent, so that their squared distances add up to about the distance of the whole int8 network. A group has a share
of each task's sum.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, fx

from edgemtl import objectives
from edgemtl.device import budget as budgets
from edgemtl.ground import plots, show
from edgemtl.ground.files import write_json
from edgemtl.quantization import quantizers
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.quantization.replay import Replay

# OpenVINO's own profile of nyud_edge's network, 2026.4, one thread of a CPU with VNNI, one frame: dense convolutions
# take 3.5 times as long in float32 as in int8, depthwise ones 1.2 times, and a product of those 12 times that of a
# dense one; everything else takes as long as all int8 layers together.
FLOAT_COST = {False: 3.5, True: 1.2}  # depthwise or not
DEPTHWISE_COST = 12.0
OTHERS = 1.0
OPTION = "compression.budget"


class Group(NamedTuple):
    """Layers that read the same quantized tensors; int8 or float together, since a half quantized layer runs as float.

    A group without layers is a sum's quantizer. `latency` is what float costs, a share of the int8 network's latency.
    """

    name: str
    quantizers: frozenset[FakeQuantize]
    layers: tuple[str, ...]  # names of their weights
    latency: float


class Budget(NamedTuple):
    """How far int8 may fall behind float, and how much slower than int8 everywhere it may get, in percent."""

    delta_m: float | None = None
    latency: float | None = None


def read_budget(text: str) -> Budget:
    """What a text such as "delta_m=-1,latency=+5%" states; UsageError with the syntax."""
    allowances = budgets.parse_allowances(text, OPTION)
    budgets.check_names(allowances, OPTION, {budgets.DELTA_M: True, budgets.LATENCY: False})
    return Budget(**{entry.name: entry.change for entry in allowances})


# ---- the matrix


def groups(graph: Replay) -> list[Group]:
    """The network's quantizers in groups, in the order of its layers."""
    together: dict[FakeQuantize, set[FakeQuantize]] = {}
    for quantizer in graph.quantizers.values():
        together.setdefault(quantizer, {quantizer})
    costs: dict[FakeQuantize, list[tuple[float, bool]]] = {}  # by weight: products, and whether depthwise
    for node in graph.program.graph.nodes:
        inputs = quantizers.read_by(node)
        if not inputs:
            continue
        inside = set().union(*(together[graph.quantizers[other]] for other in inputs))
        for quantizer in inside:
            together[quantizer] = inside
        for other in inputs:
            if graph.quantizers[other].role == "weight":
                costs.setdefault(graph.quantizers[other], []).append(_products(node))
    total = sum(_cost(*layer) for layers in costs.values() for layer in layers) * (1 + OTHERS)
    sets = {id(inside): inside for inside in together.values()}
    rows = []
    for inside in sets.values():
        weights = [q for q in together if q in inside and q.role == "weight"]
        more = sum(_cost(*layer) * (FLOAT_COST[layer[1]] - 1) for q in weights for layer in costs.get(q, ()))
        first = weights[0] if weights else next(q for q in together if q in inside)
        rows.append(Group(first.name, frozenset(inside), tuple(q.name for q in weights), more / total))
    return rows


def _products(node: fx.Node) -> tuple[float, bool]:
    """How many multiplications a layer takes, and whether it is depthwise."""
    weight, out = node.args[1], node.meta["val"]
    assert isinstance(weight, fx.Node)
    shape = weight.meta["val"].shape
    return out.numel() * float(np.prod(shape[1:])), len(shape) == 4 and shape[1] == 1


def _cost(products: float, depthwise: bool) -> float:
    return products * (DEPTHWISE_COST if depthwise else 1)


def noise_matrix(
    graph: Replay,
    rows: Sequence[Group],
    images: Iterable[Tensor],
    tasks: Sequence[str],
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The noise (groups, tasks) that each group of quantizers alone brings to each task, mean over the images.

    `check` is called before each group and may raise, since this takes long.
    """
    images = list(images)
    noises = np.zeros((len(rows), len(tasks)))
    with show.progress() as bar:
        task = bar.add_task("sensitivity", total=len(rows) * len(images), status="")
        for image in images:
            values = graph.values(image)
            goals = graph.outputs(values)
            for row, group in enumerate(rows):
                check()
                raw = graph.again(values, group.quantizers)
                noises[row] += [objectives.of(n).noise(raw[n], goals[n]) / len(images) for n in tasks]
                bar.advance(task)
    return noises


def shares(noises: np.ndarray) -> np.ndarray:
    """Each group's share (groups, tasks) of a task's noise."""
    total = noises.sum(0, keepdims=True)
    return np.divide(noises, total, out=np.zeros_like(noises), where=total > 0)


# ---- what stays float


class Choice(NamedTuple):
    """The groups to keep float, what int8 then costs each task in percent, and whether that is within the budget."""

    kept: list[int]  # rows
    gains: dict[str, float]
    latency: float  # percent
    tried: list[tuple[int, float, float]]  # number kept, delta-m, latency
    ok: bool

    @property
    def delta_m(self) -> float:
        return float(np.mean(list(self.gains.values())))


def choose_float(
    rows: Sequence[Group],
    noises: np.ndarray,
    allowed: Budget,
    judge: Callable[[Collection[FakeQuantize]], Mapping[str, float]],
) -> Choice:
    """The fewest worst layers to keep float. `judge` gives each task's gain in percent with some quantizers off.

    Layers are sorted by their share of the noise for their latency; a task that lost more counts for more. Bisection
    finds how many of them stay float; the tasks' scores judge each number.
    """
    tried: dict[int, tuple[dict[str, float], float]] = {}
    first = dict(judge(frozenset()))
    losses = np.maximum(0.0, [-gain for gain in first.values()]) + 1e-9
    worth = shares(noises) @ (losses / losses.sum())
    order = sorted(range(len(rows)), key=lambda row: -worth[row] / (rows[row].latency + 1e-3))
    late = np.cumsum([0.0] + [100 * rows[row].latency for row in order])
    most = int((late <= allowed.latency).sum()) - 1 if allowed.latency is not None else len(rows)

    def at(count: int) -> float:
        if count not in tried:
            off = frozenset().union(*(rows[row].quantizers for row in order[:count]))
            tried[count] = (dict(judge(off)) if count else first, float(late[count]))
        return float(np.mean(list(tried[count][0].values())))

    if allowed.delta_m is None:
        at(most)
        best = most
    else:
        low, high = 0, most
        best = max((low, high), key=at) if at(low) < allowed.delta_m else low
        if at(low) < allowed.delta_m <= at(high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if at(middle) >= allowed.delta_m else (middle, high)
            best = high
    ok = allowed.delta_m is None or at(best) >= allowed.delta_m
    steps = [(count, float(np.mean(list(gains.values()))), latency) for count, (gains, latency) in tried.items()]
    return Choice(order[:best], tried[best][0], tried[best][1], steps, ok)


# ---- for people


def reasons(
    rows: Sequence[Group], noises: np.ndarray, kept: Iterable[int], tasks: Sequence[str]
) -> list[dict[str, str]]:
    """Why each of these groups stays float: an entry for each layer, or sum."""
    entries = []
    share = shares(noises)
    for row in kept:
        group, worst = rows[row], int(share[row].argmax())
        noise = f"{100 * share[row, worst]:.2g} % of int8's noise in {tasks[worst]}"
        text = f"{noise}, +{100 * group.latency:.2g} % latency"
        entries += [{"name": name, "group": group.name, "reason": text} for name in group.layers or (group.name,)]
    return entries


def show_worst(rows: Sequence[Group], noises: np.ndarray, tasks: Sequence[str], count: int = 5) -> None:
    """Prints the layers that cost each task most."""
    share = shares(noises)
    lines = [
        (name, _short(rows[row]), f"{100 * share[row, column]:.1f} %", f"+{100 * rows[row].latency:.2g} %")
        for column, name in enumerate(tasks)
        for row in np.argsort(-share[:, column])[:count]
    ]
    show.table("what int8 costs", ("task", "layers", "share of its noise", "latency in float"), lines, left=2)


def show_choice(choice: Choice, allowed: Budget, text: str) -> None:
    """Prints each number of float layers with its scores, and the choice; warns where the budget is not met."""
    lines = [(count, f"{gain:+.2f} %", f"+{latency:.2g} %") for count, gain, latency in sorted(choice.tried)]
    show.table("int8 against float, before fine-tuning", ("groups kept float", "delta-m", "latency"), lines)
    if not choice.ok:
        show.err.print(
            f"the budget {text} is not met: delta-m {choice.delta_m:+.2f} % with {len(choice.kept)} groups of layers"
            " float is the best that was found; fine-tuning may still reach it", style="yellow", highlight=False,
        )  # fmt: skip


def save(file: Path, rows: Sequence[Group], noises: np.ndarray, tasks: Sequence[str], more: dict[str, Any]) -> None:
    """Writes the matrix as JSON: each group's layers, quantizers, latency in float and noise by task."""
    entries = [
        {
            "name": group.name, "layers": list(group.layers), "quantizers": sorted(q.name for q in group.quantizers),
            "latency_percent": 100 * group.latency, "noise": dict(zip(tasks, each, strict=True)),
        }
        for group, each in zip(rows, noises.tolist(), strict=True)
    ]  # fmt: skip
    write_json(file, {"groups": entries, **more})


def _short(group: Group) -> str:
    more = len(group.layers) - 1
    return f"{group.name.removesuffix('.weight')}{f' and {more} more' if more > 0 else ''}"


def draw(rows: Sequence[Group], noises: np.ndarray, tasks: Sequence[str], file: Path) -> None:
    """Writes a heat map, SVG: tasks down, groups of layers across; the worst three of each task are named."""
    share = 100 * shares(noises)
    with plots.figure(12, 1.6 + 0.45 * len(tasks)) as (figure, [[axis]]):
        picture = axis.imshow(
            np.maximum(share.T, 1e-2), aspect="auto", norm="log", cmap="magma_r", interpolation="none"
        )
        axis.grid(visible=False)
        axis.set_yticks(range(len(tasks)), tasks)
        worst = sorted({int(row) for column in range(len(tasks)) for row in np.argsort(-share[:, column])[:3]})
        axis.set_xticks(worst, [_short(rows[row]) for row in worst], rotation=35, ha="right", fontsize=7)
        axis.set_title("share of each task's int8 noise, by layer (first to last)")
        figure.colorbar(picture, ax=axis, format="%g %%", pad=0.01)
        plots.save(figure, file)
