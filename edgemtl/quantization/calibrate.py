"""NNCF decides where quantizers sit; the calibration frames decide their scales.

The scales are in the one int8 form (see `quantizers`), and nothing changes them afterwards.
"""

import itertools
import math
import re
from typing import Any, Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.networks import purposes
from edgemtl.networks.points import Point
from edgemtl.quantization import nncf, quantizers
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.quantization.replay import Replay
from edgemtl.records import ledger
from edgemtl.records.ledger import CODES
from edgemtl.records.recipe import Compression

# The inputs of these operations stay float, and so do sums of their results. No runtime has an int8 kernel for
# sampling. The other operations have no weights: quantizing their inputs adds 56 quantizers to nyud_edge's network (176
# instead of 120) and speeds up nothing.
FLOAT_OPERATIONS = {
    "bmm", "div", "exp", "floor", "grid_sample", "layer_norm", "matmul", "mean", "mul", "sigmoid", "softmax",
    "softplus", "sqrt", "sub", "sum",
}  # fmt: skip
SUMS = {"add", "__add__", "__radd__", "__iadd__", "add_"}
USUAL = Compression()
LAYERS = {"conv1d", "conv2d", "conv_transpose2d", "linear", "addmm"}


def quantize(
    network: nn.Module, items: Sequence[Any], example: Callable[[Any], Tensor], options: Compression = USUAL
) -> tuple[nn.Module, dict[str, Any]]:
    """A quantized copy of the network, and how many quantizers it has.

    NNCF places the quantizers; `example(item)` (1, 3, H, W) of every item calibrates them. Five things stay float: the
    operations between a layer and a grid_sample's grid, modules for coordinates, modules for attention, the operations
    in FLOAT_OPERATIONS, and layers that match a pattern of `keep_float`. In the exact form coordinates are codes until
    they are scaled. Two kinds of quantizers are removed again: those that no layer follows, and those of tensors that
    are codes already. UsageError for a pattern that matches no layer; CheckFailed where a quantizer sits on a
    coordinate.
    """
    first = example(items[0])
    quantized = nncf.insert_quantizers(network, first, float_operations(network, first, options.keep_float))
    _adopt(quantized, first, options)
    points = quantizers.points(quantized)
    ran = quantizers.arrivals(quantized, first, points.values())
    for slot, point in points.items():
        if point in ran:
            scale = torch.tensor(point.scale or 1.0)
            quantizers.insert(quantized, slot, FakeQuantize(scale, None, "activation", quantizers.operation(slot)))
    graph = Replay(quantized, first)
    needless = {name for name in quantizers.idle(graph.program) if not quantizers.at_point(name)}
    needless |= set(quantizers.doubled(graph.program))
    filled = quantizers.slots(quantized)
    gone = {filled[quantizers.slot(name)] for name in needless}
    for slot in [slot for slot, module in filled.items() if module in gone]:
        quantizers.remove(quantized, slot)
    wrong = set(quantizers.on_coordinates(graph.program, quantized)) - needless
    if wrong and not _offsets_are_codes(quantized):
        raise CheckFailed(f"a quantizer sits on a sampling coordinate: {', '.join(sorted(wrong))}")
    largest = calibrate(graph, itertools.chain([first], map(example, items[1:])), options)
    return quantized, count_quantizers(quantized) | {
        "beyond_float16": {n: x for n, x in largest.items() if x > ledger.LARGEST}
    }


def _offsets_are_codes(network: nn.Module) -> bool:
    """Whether sampling is in its exact form: coordinates are scaled codes, and `proof` checks them."""
    modules = purposes.having(network, purposes.COORDINATES)
    return any(isinstance(part, Point) for module in modules for part in module.modules())


def count_quantizers(network: nn.Module) -> dict[str, Any]:
    """The numbers of quantizers of weights and of activations, and of weights' channels."""
    every = list(quantizers.quantizers(network))
    weights = [q for q in every if q.role == "weight"]
    smallest = sum(int((q.scale == ledger.SMALLEST).sum()) for q in weights)
    channels = sum(q.scale.numel() for q in weights)
    return {
        "weights": len(weights), "activations": len(every) - len(weights), "channels": channels,
        "channels_at_smallest_scale": smallest,
    }  # fmt: skip


def float_operations(network: nn.Module, example: Tensor, keep_float: Sequence[str] = ()) -> set[str]:
    """NNCF's names of the operations that must stay float; UsageError for a pattern that matches none."""
    graph = nncf.graph(network, example)
    nodes = graph.get_all_nodes()
    # An operation's name says which modules were called, a parameter's where it is stored. A pattern may match either.
    names_of = {node: [node.node_name, *(n.node_name for n in graph.get_previous_nodes(node))] for node in nodes}
    names_of = {
        node: [name for name in names if name == node.node_name or "/" not in name] for node, names in names_of.items()
    }
    floats = {node for node in nodes if node.node_type in FLOAT_OPERATIONS}
    for node in graph.topological_sort():
        summed = {n for n in graph.get_previous_nodes(node) if n.node_type not in nncf.NO_OPERATIONS}
        if node.node_type in SUMS and summed <= floats:
            floats.add(node)
    for pattern in map(_pattern, keep_float):
        matching = {node for node, names in names_of.items() if any(pattern.search(name) for name in names)}
        if not matching:
            raise UsageError(f"compression.keep_float: {pattern.pattern!r} matches no layer")
        floats |= matching
    codes = _offsets_are_codes(network)
    attention, coordinates = (
        nncf.operations_inside(network, example, purposes.having(network, purpose))
        for purpose in (purposes.ATTENTION, purposes.COORDINATES)
    )
    floats |= {node for node in nodes if node.node_name in attention}
    floats |= {node for node in nodes if node.node_name in coordinates and not (codes and node.node_type in LAYERS)}
    edges = [edge for node in nodes if node.node_type == "grid_sample" for edge in graph.get_input_edges(node)]

    def makes_positions(nodes: Iterable[Any]) -> list[Any]:
        return [n for n in nodes if n.node_type not in LAYERS or (not codes and n.node_name in coordinates)]

    grids = makes_positions(edge.from_node for edge in edges if edge.input_port_id == 1)
    floats.update(ledger.reached(grids, lambda node: makes_positions(graph.get_previous_nodes(node))))
    return {node.node_name for node in floats if node.node_type not in nncf.NO_OPERATIONS}


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"compression.keep_float: {text!r} is no regular expression: {error}") from None


def calibrate(graph: Replay, images: Iterable[Tensor], options: Compression) -> dict[str, float]:
    """The largest value that reached each quantizer, by its name; sets the scales of all activations, in place.

    A scale follows from the values (of the float network) that reach the quantizer. A power of two is the one with the
    least squared error over all images. Any other scale makes the largest code stand for the mean of the images'
    largest values. (The range with the least squared error is narrower. For the device networks of the three papers it
    was no better.)
    """
    fixed = {point.quantizer for point in quantizers.points(graph.network).values() if point.scale}
    powers = options.scales == "power-of-two"
    largest: dict[FakeQuantize, list[Tensor]] = {}
    scales: dict[FakeQuantize, Tensor] = {}
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
        if quantizer not in scales:
            fitting = quantizers.power(most / quantizer.high)
            scales[quantizer] = (fitting * torch.tensor([0.25, 0.5, 1.0, 2.0])).clamp(min=ledger.SMALLEST)
            errors[quantizer] = torch.zeros(len(scales[quantizer]), dtype=torch.float64)
        for index, scale in enumerate(scales[quantizer]):
            errors[quantizer][index] += quantizers.nearest(x, scale, quantizer.bits).sub_(x).square_().sum()

    for each in images:
        graph.run(each, watch=watch)
    for quantizer, values in largest.items():
        quantizer.scale.copy_(quantizers.snap(torch.stack(values).mean() / quantizer.high))
    for quantizer, candidates in scales.items():
        quantizer.scale.copy_(candidates[errors[quantizer].argmin()])
    return reached


def weight_scale(weight: Tensor, axis: int, options: Compression) -> Tensor:
    """A scale (C,) for each channel along `axis`.

    A power of two has the least squared error. Any other scale makes the largest code stand for the largest value.
    """
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
    """Replaces each of NNCF's quantizers by a FakeQuantize, which is signed and has a scale of our form.

    A quantizer that hung in several slots still does. Scales of activations are not calibrated yet.
    """
    places: dict[nn.Module, list[str]] = {}
    for slot, module in quantizers.slots(network).items():
        places.setdefault(module, []).append(slot)
    inputs = _arrivals(network, example, places)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    of_weight: dict[str, FakeQuantize] = {}  # a layer that is called twice has two quantizers on one weight
    for module, where in places.items():
        name = names.get(id(inputs[module]))
        role = "activation" if name is None else "weight"
        largest = nncf.largest(module, quantizers.BITS)  # an unsigned one becomes signed and leaves half its codes
        axis = None if name is None else _axis(largest, inputs[module])
        assert axis is not None or largest.numel() == 1
        if axis is None:
            quantizer = FakeQuantize(torch.ones(()), None, role, name or quantizers.operation(where[0]))
        elif name in of_weight:
            quantizer = of_weight[name]
        else:
            assert name is not None
            scale = weight_scale(inputs[module].detach(), axis, options)
            quantizer = of_weight[name] = FakeQuantize(scale, axis, role, name, options.bits)
        for slot in where:
            quantizers.refill(network, slot, quantizer)
    network.eval().requires_grad_(False)


def _arrivals(network: nn.Module, example: Tensor, places: dict[nn.Module, list[str]]) -> dict[nn.Module, Tensor]:
    """The first tensor that reaches each module of `places`.

    Meanwhile identities take their places: the first run of an NNCF quantizer compiles a C++ extension for a minute.
    """
    probes = {module: nn.Identity() for module in places}
    for module, where in places.items():
        for slot in where:
            quantizers.refill(network, slot, probes[module])
    inputs = quantizers.arrivals(network, example, probes.values())
    return {module: inputs[probe] for module, probe in probes.items()}


def _axis(scale: Tensor, weight: Tensor) -> int | None:
    """The axis along which each index of the weight has a scale of its own; None for one scale in all."""
    both = [i for i, (n, s) in enumerate(zip(weight.shape, scale.shape)) if n == s == scale.numel()]
    return both[0] if both else None
