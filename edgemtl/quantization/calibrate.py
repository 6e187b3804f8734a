"""Where quantizers sit, which NNCF decides, and their scales, which the calibration frames do.

Scales are in the one int8 form (see `quantizers`) from then on, and stay.
"""

import itertools
import math
import re
from typing import Any, Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from edgemtl import ledger
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.ledger import CODES
from edgemtl.networks import purposes
from edgemtl.networks.points import Point
from edgemtl.quantization import nncf, quantizers
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.quantization.replay import Replay
from edgemtl.recipe import Compression

# Operations whose inputs stay float, and sums of their results. Sampling has no int8 kernel anywhere. The others are no
# layers: in nyud_edge's network they would get 56 quantizers more (176 instead of 120), without one more int8 layer.
FLOAT = {
    "bmm", "div", "exp", "floor", "grid_sample", "layer_norm", "matmul", "mean", "mul", "sigmoid", "softmax",
    "softplus", "sqrt", "sub", "sum",
}  # fmt: skip
SUMS = {"add", "__add__", "__radd__", "__iadd__", "add_"}
USUAL = Compression()
LAYERS = {"conv1d", "conv2d", "conv_transpose2d", "linear", "addmm"}


def quantize(
    network: nn.Module, items: Sequence[Any], example: Callable[[Any], Tensor], options: Compression = USUAL
) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of the network with quantizers where NNCF wants them, calibrated on `example(item)` of every item.

    Whatever leads from a layer to a grid_sample's grid, modules for coordinates or attention, the operations in FLOAT
    and layers that match a pattern of `keep_float` stay float; in the exact form coordinates are codes until they are
    scaled.
    Quantizers after which no layer follows are taken away again, and those of what is codes already.
    """
    first = example(items[0])
    made = nncf.quantize(network, first, float_operations(network, first, options.keep_float))
    _adopt(made, first, options)
    points = quantizers.points(made)
    ran = quantizers.arrivals(made, first, points.values())
    for slot, point in points.items():
        if point in ran:
            scale = torch.tensor(point.scale or 1.0)
            quantizers.insert(made, slot, FakeQuantize(scale, None, "activation", quantizers.operation(slot)))
    graph = Replay(made, first)
    needless = {name for name in quantizers.idle(graph.program) if not quantizers.at_point(name)}
    needless |= set(quantizers.doubled(graph.program))
    filled = quantizers.slots(made)
    gone = {filled[quantizers.slot(name)] for name in needless}
    for slot in [slot for slot, module in filled.items() if module in gone]:
        quantizers.remove(made, slot)
    wrong = set(quantizers.on_coordinates(graph.program, made)) - needless
    if wrong and not _offsets_are_codes(made):
        raise CheckFailed(f"a quantizer sits on a sampling coordinate: {', '.join(sorted(wrong))}")
    largest = calibrate(graph, itertools.chain([first], map(example, items[1:])), options)
    return made, counts(made) | {"beyond_float16": {n: x for n, x in largest.items() if x > ledger.LARGEST}}


def _offsets_are_codes(network: nn.Module) -> bool:
    """Whether sampling is in its exact form, where codes are scaled to coordinates and `proof` looks after them."""
    modules = purposes.having(network, purposes.COORDINATES)
    return any(isinstance(part, Point) for module in modules for part in module.modules())


def counts(network: nn.Module) -> dict[str, Any]:
    found = list(quantizers.quantizers(network))
    weights = [q for q in found if q.role == "weight"]
    smallest = sum(int((q.scale == ledger.SMALLEST).sum()) for q in weights)
    channels = sum(q.scale.numel() for q in weights)
    return {
        "weights": len(weights), "activations": len(found) - len(weights), "channels": channels,
        "channels_at_smallest_scale": smallest,
    }  # fmt: skip


def float_operations(network: nn.Module, example: Tensor, keep_float: Sequence[str] = ()) -> set[str]:
    """NNCF's names of the operations that must stay float; UsageError for a pattern that matches none."""
    graph = nncf.graph(network, example)
    nodes = graph.get_all_nodes()
    # Operations are named by the modules that were called, parameters by where they are kept: ask both.
    known = {node: [node.node_name, *(n.node_name for n in graph.get_previous_nodes(node))] for node in nodes}
    known = {
        node: [name for name in names if name == node.node_name or "/" not in name] for node, names in known.items()
    }
    kept = {node for node in nodes if node.node_type in FLOAT}
    for node in graph.topological_sort():
        summed = {n for n in graph.get_previous_nodes(node) if n.node_type not in nncf.NO_OPERATIONS}
        if node.node_type in SUMS and summed <= kept:
            kept.add(node)
    for pattern in map(_pattern, keep_float):
        matching = {node for node, names in known.items() if any(pattern.search(name) for name in names)}
        if not matching:
            raise UsageError(f"compression.keep_float: {pattern.pattern!r} matches no layer")
        kept |= matching
    codes = _offsets_are_codes(network)
    attention, coordinates = (
        nncf.inside(network, example, purposes.having(network, purpose))
        for purpose in (purposes.ATTENTION, purposes.COORDINATES)
    )
    kept |= {node for node in nodes if node.node_name in attention}
    kept |= {node for node in nodes if node.node_name in coordinates and not (codes and node.node_type in LAYERS)}
    edges = [edge for node in nodes if node.node_type == "grid_sample" for edge in graph.get_input_edges(node)]
    waiting = [edge.from_node for edge in edges if edge.input_port_id == 1]
    seen = set()
    while waiting:
        node = waiting.pop()
        inside = not codes and node.node_name in coordinates
        if node not in seen and (node.node_type not in LAYERS or inside):
            seen.add(node)
            waiting += graph.get_previous_nodes(node)
    found = {node.node_name for node in kept | seen if node.node_type not in nncf.NO_OPERATIONS}
    return found


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"compression.keep_float: {text!r} is no regular expression: {error}") from None


def calibrate(graph: Replay, images: Iterable[Tensor], options: Compression) -> dict[str, float]:
    """Sets the scale of every activation's quantizer, in place, from what reaches it in the float network.

    Gives back the largest value that reached each, by its name.

    Of powers of two, the one with the least squared error over all images. Of other scales, that whose largest code
    stands for the mean of the images' largest values: the range with the least squared error, which is narrower, was no
    better there for any of the three papers' device networks.
    """
    fixed = {point.quantizer for point in quantizers.points(graph.network).values() if point.scale}
    powers = options.scales == "power-of-two"
    largest: dict[FakeQuantize, list[Tensor]] = {}
    tried: dict[FakeQuantize, Tensor] = {}
    errors: dict[FakeQuantize, Tensor] = {}
    reached: dict[str, float] = {}

    def watch(quantizer: FakeQuantize, x: Tensor) -> None:
        if quantizer.role != "activation":
            return
        least, most = x.aminmax()
        most = torch.maximum(-least, most)
        reached[quantizer.name] = max(reached.get(quantizer.name, 0.0), most.item())
        if quantizer in fixed:
            return
        if not powers:
            largest.setdefault(quantizer, []).append(most)
            return
        if quantizer not in tried:
            fitting = quantizers.power(most / quantizer.high)
            tried[quantizer] = (fitting * torch.tensor([0.25, 0.5, 1.0, 2.0])).clamp(min=ledger.SMALLEST)
            errors[quantizer] = torch.zeros(len(tried[quantizer]), dtype=torch.float64)
        for index, scale in enumerate(tried[quantizer]):
            # What `quantizers.codes` and `decode` give, in one piece of memory: new ones cost more than the arithmetic.
            rounded = (x * scale.reciprocal()).round_().clamp_(*CODES[quantizer.bits]).mul_(scale)
            errors[quantizer][index] += rounded.sub_(x).square_().sum()

    for each in images:
        graph.run(each, watch=watch)
    for quantizer, values in largest.items():
        quantizer.scale.copy_(quantizers.snap(torch.stack(values).mean() / quantizer.high))
    for quantizer, candidates in tried.items():
        quantizer.scale.copy_(candidates[errors[quantizer].argmin()])
    return reached


def weight_scale(weight: Tensor, axis: int, options: Compression) -> Tensor:
    """A scale for each channel along `axis`: of powers of two the one with the least squared error, otherwise that
    whose largest code stands for the largest value."""
    _, high = CODES[options.bits]
    largest = weight.abs().amax([i for i in range(weight.ndim) if i != axis])
    if options.scales != "power-of-two":
        return quantizers.snap(largest / high)
    best, least = quantizers.power(largest / high), torch.full_like(largest, math.inf)
    for scale in (best, best / 2):
        scale = scale.clamp(min=ledger.SMALLEST)
        rounded = quantizers.decode(quantizers.codes(weight, scale, axis, options.bits), scale, axis)
        error = (weight - rounded).square().sum([i for i in range(weight.ndim) if i != axis])
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _adopt(network: nn.Module, example: Tensor, options: Compression) -> None:
    """Puts a FakeQuantize in place of each of NNCF's quantizers: signed, its scale of our form, shared ones shared.

    Scales of activations are not calibrated yet.
    """
    places: dict[nn.Module, list[str]] = {}
    for slot, module in quantizers.slots(network).items():
        places.setdefault(module, []).append(slot)
    seen = _arrivals(network, example, places)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    of_weight: dict[str, FakeQuantize] = {}  # a layer that is called twice has two quantizers on one weight
    for module, where in places.items():
        name = names.get(id(seen[module]))
        role = "activation" if name is None else "weight"
        largest = nncf.largest(module, quantizers.BITS)  # an unsigned one becomes signed and leaves half its codes
        axis = None if name is None else _axis(largest, seen[module])
        assert axis is not None or largest.numel() == 1
        if axis is None:
            made = FakeQuantize(torch.ones(()), None, role, name or quantizers.operation(where[0]))
        elif name in of_weight:
            made = of_weight[name]
        else:
            assert name is not None
            scale = weight_scale(seen[module].detach(), axis, options)
            made = of_weight[name] = FakeQuantize(scale, axis, role, name, options.bits)
        for slot in where:
            quantizers.replace(network, slot, made)
    network.eval().requires_grad_(False)


def _arrivals(network: nn.Module, example: Tensor, places: dict[nn.Module, list[str]]) -> dict[nn.Module, Tensor]:
    """The first tensor that reaches each module of `places`.

    Identities stand in for them meanwhile: the first run of an NNCF quantizer compiles a C++ extension, for a minute.
    """
    probes = {module: nn.Identity() for module in places}
    for module, where in places.items():
        for slot in where:
            quantizers.replace(network, slot, probes[module])
    seen = quantizers.arrivals(network, example, probes.values())
    return {module: seen[probe] for module, probe in probes.items()}


def _axis(scale: Tensor, weight: Tensor) -> int | None:
    """The dimension along which the weight has a scale each."""
    both = [i for i, (n, s) in enumerate(zip(weight.shape, scale.shape)) if n == s == scale.numel()]
    return both[0] if both else None
