"""Which values inside a deployed network are the same bits in every runtime, and why: an analysis of torch's graph.

Every value is followed from the camera to the maps as a lattice: multiples of a known power of two (plus a known
constant), between two bounds. float32 holds all of them as long as the bounds are below 2**24 of that power. Then sums
and products are exact. Neither their order, nor a fused multiply-add, nor the kernel can matter, and rounding to codes
is the same everywhere.

What is not exact is an island, with two exceptions. Rounding brings them back on the grid, because they are provably
far from any tie: what bilinear sampling reads at whole fractions of a pixel, and functions of so few codes that all
their values can be looked at. Both allow for the error of any float32 arithmetic, WebGPU's exp included.

Codes behind an island may differ between runtimes where a value is near a tie; `Proof.codes` names their islands.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from edgemtl.quantization import quantizers, rules, sampling
from edgemtl.quantization.lattice import Array, Value, exact, power, products, rounds_alike

ROOM = 23  # bits of a layer's sums, at the most, where scales can be chosen: fine-tuning moves them a little


class Proof(NamedTuple):
    """What the analysis found."""

    islands: dict[str, str]  # operation -> why it is not exact
    codes: dict[str, frozenset[str]]  # quantizer's scale in the graph -> the islands that its codes depend on
    outputs: dict[str, frozenset[str]]  # the same of each map; "" stands for the map's own last operations
    bits: float  # of the largest whole number that float32 must hold

    @property
    def exact(self) -> tuple[str, ...]:
        """The tasks whose maps are the same bits everywhere."""
        return tuple(task for task, islands in self.outputs.items() if not islands)


def prove(
    deployed: nn.Module, frame: torch.Tensor, settle: bool = False, program: ExportedProgram | None = None
) -> Proof:
    """The analysis of `deployed`, which takes frames like `frame`, (1, 3, H, W) of whole numbers 0..255.

    `program` is its `quantizers.export`, where that is there already.

    With `settle`, in place, the biases of layers whose inputs are exact are rounded to multiples of what their products
    are multiples of. Where a channel's bias is so large beside its weights that float32 could not hold both, the
    weights get a coarser scale, which such a channel cannot feel.
    """
    program = program or quantizers.export(deployed, frame)
    program.graph.eliminate_dead_code()  # what only tasks need that the network was cut of
    return _Walk(program, deployed, settle).run()


class _Walk:
    """One pass over a graph: what every node gives, a constant tensor or a Value."""

    def __init__(self, program: Any, deployed: nn.Module, settle: bool):
        self.program, self.settle = program, settle
        self.named = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
        self.scales = quantizers.scales(program)
        self.at: dict[fx.Node, Any] = dict(quantizers.constants(program, deployed))
        self.own = {self.named[node.name]: tensor for node, tensor in self.at.items() if node.name in self.named}
        self.why: dict[str, str] = {}
        self.codes: dict[str, frozenset[str]] = {}
        self.bits = 0.0
        self.settled: dict[str, Array] = {}
        self.positions = sampling.positions(program.graph)  # sampling answers for them
        self.rules: dict[str, Callable[..., Value | str]] = rules.RULES | {
            "conv2d": self.conv, "add": self.add, "cat": self.cat,
            "grid_sampler": functools.partial(sampling.sample, self.at),
        }  # fmt: skip

    def run(self) -> Proof:
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.at.setdefault(node, exact(1.0, 0.0, 255.0, frozenset()))
            elif node.op == "call_function":
                self.at[node] = self._step(node)
        maps = self.program.graph.output_node().args[0]
        outputs = {}
        for task, value in zip(self._tasks(), map(self.at.__getitem__, maps), strict=True):
            outputs[task] = value.islands if value.exact else value.islands | {""}
        return Proof(self.why, self.codes, outputs, self.bits)

    def _tasks(self) -> list[str]:
        """The tasks, in the order of the graph's outputs."""
        spec = self.program.call_spec.out_spec
        return list(spec.context) if spec.context else [str(i) for i in range(spec.num_leaves)]

    def _step(self, node: fx.Node) -> Any:
        if not any(isinstance(self.at[source], Value) for source in node.all_input_nodes):
            constants: Any = fx.map_arg((node.args, node.kwargs), self.at.__getitem__)
            with torch.no_grad():
                return node.target(*constants[0], **constants[1])  # type: ignore[operator]
        if node in self.positions:
            return self._unknown(node)
        if quantizers.quantizes(node):
            return self._quantize(node)
        kind = quantizers.called(node).removesuffix("_")
        if kind not in self.rules:
            return self._island(node, f"{kind} is not exact")
        args: list[Any] = [fx.map_arg(arg, self.at.__getitem__) for arg in node.args]
        value = self.rules[kind](node, *args, **node.kwargs)
        if isinstance(value, str):
            return self._island(node, value)
        if value.exact and kind not in rules.PLACING:
            if value.bits > 24:
                return self._island(node, f"sums need {value.bits:.1f} bits, float32 holds 24")
            self.bits = max(self.bits, value.bits)
        return value

    def _island(self, node: fx.Node, reason: str) -> Value:
        """Nothing is known of what the node gives; an island begins where something was known before."""
        values = [self.at[source] for source in node.all_input_nodes if source not in self.positions]
        lost = all(value.known or value.listed for value in values if isinstance(value, Value))
        if lost:
            self.why.setdefault(readable_name(node), reason)
        return self._unknown(node, {readable_name(node)} if lost else set())

    def _unknown(self, node: fx.Node, own: set[str] | None = None) -> Value:
        values = (self.at[source] for source in node.all_input_nodes)
        islands = frozenset(own or ()).union(*(value.islands for value in values if isinstance(value, Value)))
        assert islands or node in self.positions  # nothing is lost without a word
        nothing = np.zeros(())
        return Value(nothing, nothing, nothing, islands=islands)

    def _quantize(self, node: fx.Node) -> Value:
        """Codes, or an island where a value may lie on either side of a tie."""
        x, scale = self.at[node.args[0]], self.at[node.args[1]]  # type: ignore[index]
        low, high = (int(bound) for bound in node.args[-2:])  # type: ignore[arg-type]
        assert isinstance(x, Value) and scale.ndim == 0
        step, islands = float(scale), x.islands
        name = self.scales[node]
        if not math.log2(step).is_integer():
            self.why.setdefault(name, f"its scale {step:g} is no power of two")
            self.codes[name] = islands | {name}
            return self._unknown(node, {name})
        bounded = x.known or x.listed
        if not rounds_alike(x, step, low, high):
            self.why.setdefault(name, "rounds values that may lie at a tie")
            islands |= {name} if bounded else frozenset()
        self.codes[name] = islands
        ends = (x.low, x.high) if bounded else (-math.inf, math.inf)
        least, most = (np.clip(np.round(np.asarray(end) / step), low, high) * step for end in ends)
        return exact(np.full(np.shape(least), step), least, most, islands)

    # ---- rules that look at the layers before a node, and settle them

    def conv(self, node: fx.Node, x: Value, weight: Any, bias: Any = None, *rest: Any, **_: Any) -> Value | str:
        if not isinstance(x, Value) or isinstance(weight, Value):
            return "a product of two maps"
        if not x.on_grid:
            return "reads what is not exact"
        groups = int(rest[3]) if len(rest) > 3 else 1
        fine, bottom, top = products(x, weight, groups)
        fine = np.where(np.isinf(fine), self._grain(node, x), fine)
        if bias is not None:
            most = np.maximum(np.abs(top), np.abs(bottom)) + np.abs(bias.double().numpy())
            factor = _too_fine(most / fine)
            if (factor > 1).any() and (coarser := self._coarsen(node, factor)) is not None:
                fine, bottom, top = products(x, coarser, groups)
                fine = np.where(np.isinf(fine), self._grain(node, x), fine)
            b = self._settle(node, bias, fine).double().numpy()
            top, bottom, fine = top + b, bottom + b, np.minimum(fine, power(b))
        return exact(fine, bottom, top, x.islands)

    def _grain(self, node: fx.Node, x: Value) -> Array:
        """Of channels without weights, where runtimes may round the bias to the product of the scales."""
        quantized = node.args[1]
        if isinstance(quantized, fx.Node) and quantizers.quantizes(quantized):
            scale: torch.Tensor = self.at[quantized.args[1]]  # type: ignore[index]
            return scale.double().numpy() * float(np.min(x.unit))
        return np.full((), 2.0**-24)

    def _coarsen(self, node: fx.Node, factor: Array) -> torch.Tensor | None:
        """The weight with larger scales, where it is quantized by such as may be changed."""
        quantized = node.args[1]
        if not isinstance(quantized, fx.Node) or not quantizers.quantizes(quantized):
            return None
        scale = self.named.get(quantized.args[1].name, "")  # type: ignore[union-attr]
        if not self.settle or scale not in self.own or len(self.own[scale]) != len(factor):
            return None
        self.own[scale].mul_(torch.from_numpy(factor).float())
        args: Any = fx.map_arg(quantized.args, self.at.__getitem__)
        with torch.no_grad():
            weight: torch.Tensor = quantized.target(*args)  # type: ignore[operator]
        self.at[quantized] = weight
        return weight

    def _settle(self, node: fx.Node, bias: torch.Tensor, unit: Array) -> torch.Tensor:
        """The bias, on the grid of the products where it is asked for and is a parameter."""
        source = node.args[2]
        name = self.named.get(source.name, "") if isinstance(source, fx.Node) else ""
        if not self.settle or name not in self.own:
            return bias
        coarsest = np.maximum(unit, self.settled.get(name, 0))  # of a layer that is called more than once
        self.settled[name] = coarsest
        grid = torch.from_numpy(coarsest)
        # Then to float16, which some packages keep them in: 11 bits of it, so what is large stays on the grid.
        self.own[name].copy_(((bias.double() / grid).round() * grid).half())
        return self.own[name]

    def add(self, node: fx.Node, a: Any, b: Any, **options: Any) -> Value | str:
        value = rules.add(node, a, b, **options)
        if not (self.settle and isinstance(value, Value) and isinstance(a, Value) and isinstance(b, Value)):
            return value
        if value.bits > ROOM and self._coarsen_layers(node, value):
            return self.add(node, *(self.at[source] for source in node.args))  # type: ignore[index]
        return value

    def _coarsen_layers(self, node: fx.Node, total: Value) -> bool:
        """Whether a layer whose products are too fine beside what they are added to got coarser weights."""
        most = np.maximum(np.abs(total.low), np.abs(total.high)) / total.unit
        wanted = total.unit * _too_fine(most)
        changed = False
        for layer in node.args:
            value = self.at.get(layer)  # type: ignore[arg-type]
            if isinstance(layer, fx.Node) and quantizers.called(layer) == "conv2d" and isinstance(value, Value):
                factor = np.maximum(np.broadcast_to(wanted / value.unit, value.unit.shape), 1)
                if (factor > 1).any() and self._coarsen(layer, factor) is not None:
                    self.at[layer] = self._step(layer)
                    changed = changed or not np.array_equal(self.at[layer].unit, value.unit)
        return changed

    def cat(self, node: fx.Node, parts: list[Any], axis: int = 0) -> Value | str:
        value = rules.cat(node, parts, axis)
        quantized = filter(None, map(_coded, node.args[0]))  # type: ignore[arg-type]
        scales = {float(self.at[n.args[1]]) for n in quantized}  # type: ignore[index]
        if isinstance(value, Value) and len(scales) > 1 and not all(map(quantizers.quantizes, node.users)):
            return "joins codes of several scales, and OpenVINO gives them one"
        return value


def _too_fine(whole: Array) -> Array:
    """The power of two by which a unit must grow, so that numbers up to `whole` of it need no more than ROOM bits."""
    return np.asarray(np.exp2(np.ceil(np.maximum(np.log2(np.maximum(whole, 1)) - ROOM, 0))))


def _coded(node: fx.Node) -> fx.Node | None:
    """The quantizer whose codes a node passes on in other places, if there is one."""
    while not quantizers.quantizes(node):
        if quantizers.called(node) not in rules.MOVING | {"max_pool2d"}:
            return None
        node = node.all_input_nodes[0]
    return node


def readable_name(node: fx.Node) -> str:
    """A name for people: the module's path and the operation."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0].removeprefix("L['self'].") if stack else ""
    return f"{path}/{node.name}" if path else node.name
