"""Which values inside a deployed network are the same bits in every runtime, and why: an analysis of torch's graph.

Every value is followed from the camera to the maps as a lattice: multiples of a known power of two (plus a known
constant), between two bounds. float32 holds all of them as long as the bounds are below 2**24 of that power. Then sums
and products are exact, so that neither their order, nor a fused multiply-add, nor the kernel can matter, and rounding
to codes is the same everywhere.

What is not exact is an island, but for two kinds that rounding brings back on the grid, because they are provably far
from any tie: what bilinear sampling reads at whole fractions of a pixel, and functions of so few codes that all their
values can be looked at. Both allow for the error of any float32 arithmetic, WebGPU's exp included.

Codes behind an island may differ between runtimes where a value is near a tie; `behind` names them.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from edgemtl.quantization import quantizers

LIMIT = 2.0**24  # whole numbers up to here are float32 numbers
FUNCTION = 2.0**-20  # relative error of exp, sigmoid and division in any runtime (WebGPU's exp: 2e-7 times 3 + 2 |x|)
ROOM = 23  # bits of a layer's sums, at the most, where scales can be chosen: fine-tuning moves them a little
MANY = 1 << 18  # values of a function that are looked at one by one

Array = np.ndarray


@dataclass(frozen=True)
class Value:
    """What is known of a tensor: numbers phase + k * unit, between low and high, each () or (C,) along axis 1.

    `error` is how far computed values may lie from these. A function of few codes has its `values` instead. A quotient
    is such a number divided by a whole one, `over` at the most; its error is relative. A value of which nothing is
    known has unit 0. `islands` are those that it depends on.
    """

    unit: Array
    low: Array
    high: Array
    phase: Array = field(default_factory=lambda: np.zeros(()))
    error: float = 0.0
    values: Array | None = None
    over: float = 1.0
    islands: frozenset[str] = frozenset()

    @property
    def known(self) -> bool:
        return self.values is None and self.over == 1 and bool((self.unit > 0).all())

    @property
    def exact(self) -> bool:
        return self.known and self.error == 0

    @property
    def bits(self) -> float:
        """log2 of the largest whole number that it is, of the finest power of two that all of it are multiples of."""
        fine = np.minimum(self.unit, _unit(self.phase))
        return float(np.log2(np.maximum(np.maximum(np.abs(self.low), np.abs(self.high)) / fine, 1)).max())


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


def prove(deployed: nn.Module, frame: torch.Tensor, settle: bool = False) -> Proof:
    """The analysis of `deployed`, which takes frames like `frame`, (1, 3, H, W) of whole numbers 0..255.

    With `settle`, in place, the biases of layers whose inputs are exact are rounded to multiples of what their products
    are multiples of; and where a channel's bias is so large beside its weights that float32 could not hold both, the
    weights get a coarser scale, which such a channel cannot feel.
    """
    program = quantizers.export(deployed, frame)
    program.graph.eliminate_dead_code()  # what only tasks need that the network was cut of
    return _Walk(program, _tensors(deployed), settle).run(deployed)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: tensor.detach() for name, tensor in named}


def _exact(unit: Any, low: Any, high: Any, islands: frozenset[str], phase: Any = 0.0) -> Value:
    unit, low, high, phase = (np.asarray(x, np.float64) for x in (unit, low, high, phase))
    return Value(unit, low, high, np.mod(phase, unit), islands=islands)


def _unit(values: Any, axis: int | None = None) -> Array:
    """The largest power of two that float32 numbers are all multiples of; infinite for zeros. One for each index of an
    axis, or in all."""
    array = np.asarray(values, np.float64)
    mantissa, exponent = np.frexp(array)
    whole = np.abs(mantissa * 2.0**53).astype(np.int64)
    lowest = whole & -whole
    with np.errstate(divide="ignore"):
        units = np.where(whole == 0, np.inf, lowest * 2.0**-53 * np.exp2(exponent.astype(np.float64)))
    if axis is None:
        return np.asarray(units.min()) if array.ndim > 1 else units
    return units.min(tuple(i for i in range(array.ndim) if i != axis))


class _Walk:
    """One pass over a graph: what every node gives, a constant tensor or a Value."""

    def __init__(self, program: Any, own: dict[str, torch.Tensor], settle: bool):
        self.program, self.own, self.settle = program, own, settle
        self.named = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
        self.at: dict[fx.Node, Any] = {}
        self.why: dict[str, str] = {}
        self.codes: dict[str, frozenset[str]] = {}
        self.bits = 0.0
        self.settled: dict[str, Array] = {}
        self.positions = _positions(program.graph)  # sampling answers for them

    def run(self, deployed: nn.Module) -> Proof:
        signature = self.program.graph_signature
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name in self.named:
                    self.at[node] = self.own[self.named[node.name]]
                elif node.name in signature.inputs_to_lifted_tensor_constants:
                    self.at[node] = self.program.constants[signature.inputs_to_lifted_tensor_constants[node.name]]
                else:
                    self.at[node] = _exact(1.0, 0.0, 255.0, frozenset())
            elif node.op == "call_function":
                self.at[node] = self._step(node)
        made = self.program.graph.output_node().args[0]
        names = _outputs(self.program, deployed)
        outputs = {}
        for name, node in zip(names, made, strict=True):
            value = self.at[node]
            outputs[name] = value.islands if value.exact else value.islands | {""}
        return Proof(self.why, self.codes, outputs, self.bits)

    def _step(self, node: fx.Node) -> Any:
        given = [self.at[source] for source in node.all_input_nodes]
        if not any(_depends(value) for value in given):
            constants: Any = fx.map_arg((node.args, node.kwargs), self.at.__getitem__)
            with torch.no_grad():
                return node.target(*constants[0], **constants[1])  # type: ignore[operator]
        if node in self.positions:
            return self._unknown(node)
        if quantizers.quantizes(node):
            return self._quantize(node)
        kind = quantizers.called(node).removesuffix("_")
        rule: Callable[..., Any] | None = RULES.get(kind)
        args: list[Any] = [fx.map_arg(arg, self.at.__getitem__) for arg in node.args]
        if rule is None:
            return self._island(node, f"{kind} is not exact")
        made = rule(self, node, *args, **node.kwargs)
        if isinstance(made, str):
            return self._island(node, made)
        for value in made if isinstance(made, (list, tuple)) else [made]:
            if value.known and value.error == 0 and kind not in PLACING:
                if value.bits > 24:
                    return self._island(node, f"sums need {value.bits:.1f} bits, float32 holds 24")
                self.bits = max(self.bits, value.bits)
        return made

    def _island(self, node: fx.Node, reason: str) -> Value:
        """Nothing is known of what the node gives; an island begins where something was known before."""
        given = [self.at[source] for source in node.all_input_nodes if source not in self.positions]
        lost = all(value.known or _told(value) for value in given if isinstance(value, Value))
        if lost:
            self.why.setdefault(readable_name(node), reason)
        return self._unknown(node, {readable_name(node)} if lost else set())

    def _unknown(self, node: fx.Node, own: set[str] | None = None) -> Value:
        islands = frozenset(own or ()).union(*(_islands(self.at[source]) for source in node.all_input_nodes))
        assert islands or node in self.positions  # nothing is lost without a word
        nothing = np.zeros(())
        return Value(nothing, nothing, nothing, islands=islands)

    def _quantize(self, node: fx.Node) -> Value:
        """Codes, or an island where a value may lie on either side of a tie."""
        x, scale = self.at[node.args[0]], self.at[node.args[1]]  # type: ignore[index]
        low, high = (int(bound) for bound in node.args[-2:])  # type: ignore[arg-type]
        assert isinstance(x, Value) and scale.ndim == 0
        step = float(scale)
        islands = x.islands
        name = quantizers.scale_name(self.program, node)
        if not math.log2(step).is_integer():
            self.why.setdefault(name, f"its scale {step:g} is no power of two")
            self.codes[name] = islands | {name}
            return self._unknown(node, {name})
        if x.values is not None:
            sure = _margin(x.values / step + 0.5) > x.error / step
        elif x.over > 1:  # beyond the last tie all are rounded alike
            sure = _from_quotients(x, step) > x.error * max(-low, high) * step
        else:
            sure = x.known and _from_ties(x, step) > x.error
        if not sure:
            self.why.setdefault(name, "rounds values that may lie at a tie")
            islands |= {name} if x.known or _told(x) else frozenset()
        self.codes[name] = islands
        bottom, top = (x.low, x.high) if x.known or _told(x) else (-math.inf, math.inf)
        least, most = (np.clip(np.round(np.asarray(end) / step), low, high) * step for end in (bottom, top))
        return _exact(np.full(np.shape(least), step), least, most, islands)

    # ---- rules: what an operation gives of what it takes; a text says why nothing is known of it

    def conv(self, node: fx.Node, x: Value, weight: Any, bias: Any = None, *rest: Any, **_: Any) -> Value | str:
        if not isinstance(x, Value) or isinstance(weight, Value):
            return "a product of two maps"
        if not x.exact or (x.phase != 0).any():
            return "reads what is not exact"
        groups = int(rest[3]) if len(rest) > 3 else 1
        fine, bottom, top = _products(x, weight, groups)
        fine = np.where(np.isinf(fine), self._grain(node, x), fine)
        if bias is not None:
            most = np.maximum(np.abs(top), np.abs(bottom)) + np.abs(bias.double().numpy())
            factor = np.exp2(np.ceil(np.maximum(np.log2(np.maximum(most / fine, 1)) - ROOM, 0)))
            if (factor > 1).any() and (coarser := self._coarsen(node, factor)) is not None:
                fine, bottom, top = _products(x, coarser, groups)
                fine = np.where(np.isinf(fine), self._grain(node, x), fine)
            b = self._settle(node, bias, fine).double().numpy()
            top, bottom, fine = top + b, bottom + b, np.minimum(fine, _unit(b))
        return _exact(fine, bottom, top, x.islands)

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
            made: torch.Tensor = quantized.target(*args)  # type: ignore[operator]
        self.at[quantized] = made
        return made

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

    def add(self, node: fx.Node, a: Any, b: Any, alpha: float = 1, **_: Any) -> Value | str:
        if alpha != 1:
            return "a scaled sum"
        if not (isinstance(a, Value) and isinstance(b, Value)):
            value, other = (a, b) if isinstance(a, Value) else (b, a)
            return self._shift(value, other)
        if not (a.exact and b.exact):
            return "a sum of what is not exact"
        unit, phase = np.minimum(a.unit, b.unit), a.phase + b.phase
        made = _exact(unit, a.low + b.low, a.high + b.high, a.islands | b.islands, phase)
        if self.settle and made.bits > ROOM and self._coarsen_layers(node, made):
            return self.add(node, *(self.at[source] for source in node.args))  # type: ignore[index]
        return made

    def _coarsen_layers(self, node: fx.Node, made: Value) -> bool:
        """Whether a layer whose products are too fine beside what they are added to got coarser weights."""
        most = np.maximum(np.abs(made.low), np.abs(made.high)) / made.unit
        wanted = made.unit * np.exp2(np.ceil(np.maximum(np.log2(np.maximum(most, 1)) - ROOM, 0)))
        changed = False
        for layer in node.args:
            value = self.at.get(layer)  # type: ignore[arg-type]
            if isinstance(layer, fx.Node) and quantizers.called(layer) == "conv2d" and isinstance(value, Value):
                factor = np.maximum(np.broadcast_to(wanted / value.unit, value.unit.shape), 1)
                if (factor > 1).any() and self._coarsen(layer, factor) is not None:
                    self.at[layer] = self._step(layer)
                    changed = changed or not np.array_equal(self.at[layer].unit, value.unit)
        return changed

    def sub(self, node: fx.Node, a: Any, b: Any, **_: Any) -> Value | str:
        if not isinstance(b, Value):
            return self._shift(a, -b)
        if not isinstance(a, Value) or not (a.exact and b.exact):
            return "a difference of what is not exact"
        top = a.high - b.low
        taken = node.args[1]
        if isinstance(taken, fx.Node) and quantizers.called(taken) in ("amax", "max") and taken.args[0] is node.args[0]:
            top = np.zeros_like(top)
        unit = np.minimum(a.unit, b.unit)
        return _exact(unit, a.low - b.high, top, a.islands | b.islands, a.phase - b.phase)

    def _shift(self, x: Value, constant: Any) -> Value | str:
        by = _per_channel(constant)
        if by.ndim > 1 and x.exact:
            unit, phase = np.minimum(x.unit, _unit(by)), x.phase
            return _exact(unit, x.low + by.min(), x.high + by.max(), x.islands, phase)
        if by.ndim > 1:
            return "a sum with a constant for each place"
        if x.values is not None:
            if by.size != 1:
                return "a function with a constant for each pixel"
            values = x.values + float(by.ravel()[0])
            low, high = x.low + by, x.high + by
            return replace(x, values=values, low=low, high=high, error=x.error + 2.0**-24 * float(np.abs(values).max()))
        if x.over > 1:
            if by.size != 1:
                return "a quotient with a constant for each pixel"
            low, high, phase = x.low + by, x.high + by, x.phase + by
            return replace(x, phase=phase, low=low, high=high, error=x.error + 2.0**-23)
        if not x.known:
            return "a sum with what is not known"
        error = x.error
        if error:
            error += 2.0**-24 * float(np.maximum(np.abs(x.low), np.abs(x.high)).max())
        unit = x.unit + 0 * by
        return replace(x, unit=unit, phase=np.mod(x.phase + by, unit), low=x.low + by, high=x.high + by, error=error)

    def mul(self, node: fx.Node, a: Any, b: Any, **_: Any) -> Value | str:
        if isinstance(a, Value) and isinstance(b, Value):
            if not (a.exact and b.exact) or (a.phase != 0).any() or (b.phase != 0).any():
                return "a product of what is not exact"
            ends = np.stack([x * y for x in (a.low, a.high) for y in (b.low, b.high)])
            low = np.zeros_like(a.low) if node.args[0] is node.args[1] else ends.min(0)
            return _exact(a.unit * b.unit, low, ends.max(0), a.islands | b.islands)
        x, constant = (a, b) if isinstance(a, Value) else (b, a)
        by = _per_channel(constant)
        fine = _unit(by)
        if by.ndim > 1:  # another number at each place
            ends = np.stack([end * np.asarray(factor) for end in (x.low, x.high) for factor in (by.min(), by.max())])
        else:
            ends = np.stack([x.low * by, x.high * by])
        if x.values is not None and by.size == 1:
            values = x.values * float(by.ravel()[0])
            error = x.error * float(np.abs(by)) + 2.0**-24 * float(np.abs(values).max())
            return replace(x, values=values, low=ends.min(0), high=ends.max(0), error=error)
        if not x.exact or (x.phase != 0).any():
            return "a product with what is not exact"
        return _exact(x.unit * fine, ends.min(0), ends.max(0), x.islands)

    def clamp(self, node: fx.Node, x: Value, low: Any = None, high: Any = None, **_: Any) -> Value | str:
        low, high = (None if end is None else float(end) for end in (low, high))
        if not x.exact or (x.phase != 0).any():
            return "clips what is not exact"
        unit, bottom, top = x.unit, x.low, x.high
        for end in (low, high):
            unit = unit if end is None else np.minimum(unit, _unit(end))
        if low is not None:
            bottom, top = np.maximum(bottom, low), np.maximum(top, low)
        if high is not None:
            bottom, top = np.minimum(bottom, high), np.minimum(top, high)
        return _exact(unit, bottom, top, x.islands)

    def relu(self, node: fx.Node, x: Value) -> Value | str:
        return self.clamp(node, x, 0.0)

    def relu6(self, node: fx.Node, x: Value) -> Value | str:
        return self.clamp(node, x, 0.0, 6.0)

    def hardtanh(self, node: fx.Node, x: Value, low: float = -1.0, high: float = 1.0) -> Value | str:
        return self.clamp(node, x, low, high)

    def moved(self, node: fx.Node, x: Any, *_: Any, **__: Any) -> Any:
        """Values that only change places; channels are told apart no longer."""
        if isinstance(x, (list, tuple)):
            return x[_[0]]
        taken, given = (n.meta.get("val") for n in (node.args[0], node))  # type: ignore[union-attr]
        if not isinstance(taken, torch.Tensor) or not isinstance(given, torch.Tensor):  # parts, or nothing
            return _whole(x)
        shape, made = taken.shape, given.shape
        if len(shape) == len(made) and len(made) > 1 and shape[1] == made[1] and quantizers.called(node) in STILL:
            return x
        return _whole(x)

    def cat(self, node: fx.Node, parts: list[Any], axis: int = 0) -> Value | str:
        values = [p if isinstance(p, Value) else _constant(p) for p in parts]
        if not all(v.exact for v in values) or any((v.phase != 0).any() for v in values):
            return "joins what is not exact"
        scales = {float(self.at[n.args[1]]) for n in map(_coded, node.args[0]) if n}  # type: ignore[arg-type, index]
        if len(scales) > 1 and not all(map(quantizers.quantizes, node.users)):
            return "joins codes of several scales, and OpenVINO gives them one"
        islands: frozenset[str] = frozenset().union(*(v.islands for v in values))
        if axis == 1:
            counts = [n.meta["val"].shape[1] for n in node.args[0]]  # type: ignore[union-attr]
            both = zip(values, counts, strict=True)
            made = [[np.broadcast_to(getattr(v, key), (n,)) for key in ("unit", "low", "high")] for v, n in both]
            unit, low, high = (np.concatenate(column) for column in zip(*made, strict=True))
            return _exact(unit, low, high, islands)
        unit, low = (functools.reduce(np.minimum, (getattr(v, k) for v in values)) for k in ("unit", "low"))
        return _exact(unit, low, functools.reduce(np.maximum, (v.high for v in values)), islands)

    def pad(self, node: fx.Node, x: Value, *_: Any, **__: Any) -> Value | str:
        if not x.exact or (x.phase != 0).any():
            return "pads what is not exact"
        return replace(x, low=np.minimum(x.low, 0), high=np.maximum(x.high, 0))

    def resize(self, node: fx.Node, x: Value, size: Any = None, corners: bool = False, *_: Any) -> Value | str:
        if not x.exact:
            return "resizes what is not exact"
        if corners:
            return "bilinear between corners has weights that are no fractions of two"
        taken, made = (n.meta["val"].shape[2:] for n in (node.args[0], node))  # type: ignore[union-attr]
        share = 1.0
        for a, b in zip(taken, made, strict=True):
            if a == 2 * b:
                share /= 2
            elif b % a == 0 and math.log2(b // a).is_integer():
                share /= 1 if a == b else 2 * (b // a)
            else:
                return f"bilinear from {tuple(taken)} to {tuple(made)} has weights that are no fractions of two"
        return replace(x, unit=x.unit * share)

    def matmul(self, node: fx.Node, a: Any, b: Any) -> Value | str:
        if isinstance(a, Value) and isinstance(b, Value):
            made = self.mul(node, _whole(a), _whole(b))
            count = node.args[0].meta["val"].shape[-1]  # type: ignore[union-attr]
            return made if isinstance(made, str) else replace(made, low=made.low * count, high=made.high * count)
        x, matrix = (a, b) if isinstance(a, Value) else (b, a)
        if isinstance(matrix, Value) or not x.exact or (x.phase != 0).any():
            return "a product of what is not exact"
        m = matrix.double().numpy()
        sums = (
            np.maximum(m, 0).sum(-1 if matrix is a else -2).max(),
            np.minimum(m, 0).sum(-1 if matrix is a else -2).min(),
        )
        ends = np.stack([x.low * sums[0] + x.high * sums[1], x.high * sums[0] + x.low * sums[1]])
        return _exact(x.unit * _unit(m.ravel()).min(), ends.min(0), ends.max(0), x.islands)

    def largest(self, node: fx.Node, x: Value, *_: Any, **__: Any) -> Value | str:
        return x if x.exact else "the largest of what is not exact"

    def total(self, node: fx.Node, x: Value, *_: Any, **__: Any) -> Value | str:
        if not x.exact or (x.phase != 0).any():
            return "a sum of what is not exact"
        taken, made = (n.meta["val"] for n in (node.args[0], node))  # type: ignore[union-attr]
        if taken.ndim != made.ndim or taken.shape[1] != made.shape[1]:
            x = _whole(x)
        count = taken.numel() // made.numel()
        return _exact(x.unit, x.low * count, x.high * count, x.islands)

    def argmax(self, node: fx.Node, x: Value, axis: int | None = None, *_: Any) -> Value | str:
        if not x.exact or axis != 1:
            return "the largest of what is not exact"
        phases = np.sort(np.mod(np.atleast_1d(x.phase), np.min(x.unit)))
        classes = node.args[0].meta["val"].shape[1]  # type: ignore[union-attr]
        if len(phases) != classes or not (np.diff(phases) > 0).all():
            return "two classes may be equal, and runtimes choose as they like"
        return _exact(1.0, 0.0, classes - 1.0, x.islands)

    def function(self, node: fx.Node, x: Value, **_: Any) -> Value | str:
        """A function of few codes."""
        of = FUNCTIONS[quantizers.called(node)]
        x = _whole(x)
        if isinstance(x, str) or not x.exact:
            return "a function of what is not exact"
        unit, low, high, phase = (float(part) for part in (x.unit, x.low, x.high, x.phase))
        if (high - low) / unit > MANY:
            return "a function of too many values to look at"
        points = np.arange(round((low - phase) / unit), round((high - phase) / unit) + 1) * unit + phase
        if of is np.sqrt and points[0] < 0:
            return "a root of what may be negative"
        values = of(points)
        return Value(x.unit, np.asarray(values.min()), np.asarray(values.max()), error=FUNCTION * values.max(),
                     values=values, islands=x.islands)  # fmt: skip

    def div(self, node: fx.Node, a: Any, b: Any, **_: Any) -> Value | str:
        """A quotient of whole numbers; of small ones by the sum of them all, as a softmax ends, all are looked at."""
        if not (isinstance(a, Value) and isinstance(b, Value) and a.exact and b.exact):
            return "a quotient of what is not exact"
        if (a.phase != 0).any() or (b.phase != 0).any():
            return "a quotient of what is no multiple of a power of two"
        below = node.args[1]
        if not isinstance(below, fx.Node) or quantizers.called(below) != "sum" or below.args[0] is not node.args[0]:
            a, b = _whole(a), _whole(b)
            if b.low <= 0:
                return "a quotient by what may be 0"
            ends = np.stack([end / divisor for end in (a.low, a.high) for divisor in (b.low, b.high)])
            return Value(a.unit / b.unit, ends.min(0), ends.max(0), error=FUNCTION, over=max(float(b.high / b.unit), 2),
                         islands=a.islands | b.islands)  # fmt: skip
        unit = min(float(np.min(a.unit)), float(np.min(b.unit)))
        most, whole = round(float(np.max(a.high)) / unit), round(float(np.max(b.high)) / unit)
        if float(np.min(a.low)) < 0 or most * whole > MANY:
            return "a quotient of too many values to look at"
        values = np.unique(np.arange(most + 1)[:, None] / np.arange(1, whole + 1)[None])
        values = values[values <= 1]
        return Value(a.unit, np.zeros(()), np.ones(()), error=FUNCTION, values=values, islands=a.islands | b.islands)

    def floor(self, node: fx.Node, x: Value) -> Value | str:
        if x.exact:
            return _exact(1.0, np.floor(x.low), np.floor(x.high), x.islands)
        if x.values is None or _margin(x.values) <= x.error:
            return "rounds down what may lie on either side of a whole number"
        ends = np.floor([x.values.min(), x.values.max()])
        return _exact(1.0, ends[0], ends[1], x.islands)

    def sample(self, node: fx.Node, x: Any, grid: Any, mode: int = 0, padding: int = 0, corners: bool = False) -> Any:
        """Bilinear, zeros outside: multiples of unit / n**2 at positions of whole n-ths of a pixel."""
        if not isinstance(x, Value) or not x.exact or (x.phase != 0).any():
            return "reads what is not exact"
        if (mode, padding, corners) != (0, 0, False):
            return "sampling otherwise than bilinear, with zeros outside"
        height, width = node.args[0].meta["val"].shape[2:]  # type: ignore[union-attr]
        part = self._positions(node.args[1], height, width)
        if isinstance(part, str):
            return part
        # Of a position: its base, its product and their sum are rounded, a runtime adds 1, multiplies, subtracts 1.
        lost = 3.5 * 2.0**-24 * (height + width)
        span = float((np.maximum(x.high, 0) - np.minimum(x.low, 0)).max())
        error = span * (lost + 16 * 2.0**-24)
        low, high = np.minimum(x.low, 0).min(), np.maximum(x.high, 0).max()
        islands = x.islands | _islands(self.at[node.args[1]])  # type: ignore[index]
        return Value(np.asarray(float(np.min(x.unit)) * part**2), np.asarray(low), np.asarray(high), error=error,
                     islands=islands)  # fmt: skip

    def _positions(self, grid: Any, height: int, width: int) -> float | str:
        """The part of a pixel that all positions are multiples of: codes, scaled, added to constants."""

        def before(node: Any) -> Any:
            while isinstance(node, fx.Node) and quantizers.called(node) in STEPS:
                node = node.args[0]
            return node

        added = before(grid)
        if quantizers.called(added) != "add" or quantizers.called(before(added.args[0])) != "mul":
            return "positions are no sum of scaled codes and constants"
        scaled, base = before(added.args[0]), added.args[1]
        offset, unit, constant = (self.at.get(before(node)) for node in (*scaled.args, base))
        if not isinstance(offset, Value) or not offset.exact:
            return "offsets are not exact"
        if not isinstance(constant, torch.Tensor) or not isinstance(unit, torch.Tensor):
            return "positions are no sum of scaled codes and constants"
        part = float(np.min(offset.unit))
        sizes = np.array([width, height], np.float64)
        wanted = np.float32(2 / sizes)
        pixels = ((constant.double().numpy().reshape(-1, 2, height, width) + 1) * sizes[:, None, None] - 1) / 2
        if not np.array_equal(np.asarray(unit.double().ravel(), np.float32), wanted):
            return "offsets are scaled otherwise than by the map's size"
        if np.abs(pixels / part - np.round(pixels / part)).max() * part > 2.0**-22 * max(height, width):
            return "positions are no whole fractions of a pixel"
        return part


def _positions(graph: fx.Graph) -> set[fx.Node]:
    """What computes the positions of sampling, after the codes of offsets."""
    found: set[fx.Node] = set()
    waiting = [node.args[1] for node in graph.nodes if quantizers.called(node) == "grid_sampler"]
    while waiting:
        node = waiting.pop()
        if isinstance(node, fx.Node) and node not in found and not quantizers.quantizes(node):
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _coded(node: fx.Node) -> fx.Node | None:
    """The quantizer whose codes a node passes on in other places, if there is one."""
    while not quantizers.quantizes(node):
        if quantizers.called(node) not in MOVING | {"max_pool2d"}:
            return None
        node = node.all_input_nodes[0]
    return node


def _products(x: Value, weight: torch.Tensor, groups: int) -> tuple[Array, Array, Array]:
    """Of each output channel's sums, without bias: unit (infinite without weights), smallest, largest."""
    w = weight.double().numpy()
    out, each = w.shape[:2]
    low, high, unit = (np.broadcast_to(a, (each * groups,)).reshape(groups, each) for a in (x.low, x.high, x.unit))
    low, high = np.minimum(low, 0), np.maximum(high, 0)  # borders are padded with zeros
    flat = w.reshape(groups, out // groups, each, -1)
    up, down = np.maximum(flat, 0).sum(3), np.minimum(flat, 0).sum(3)
    top = np.einsum("goe,ge->go", up, high) + np.einsum("goe,ge->go", down, low)
    bottom = np.einsum("goe,ge->go", up, low) + np.einsum("goe,ge->go", down, high)
    fine = _unit(flat.reshape(out, each, -1), 0).reshape(groups, -1) * unit.min(1, keepdims=True)
    return fine.ravel(), bottom.ravel(), top.ravel()


def readable_name(node: fx.Node) -> str:
    """A name for people: the module's path and the operation."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0].removeprefix("L['self'].") if stack else ""
    return f"{path}/{node.name}" if path else node.name


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu(x: Array) -> Array:
    return np.asarray(torch.nn.functional.gelu(torch.from_numpy(x)))


def _depends(value: Any) -> bool:
    return any(map(_depends, value)) if isinstance(value, (list, tuple)) else isinstance(value, Value)


def _islands(value: Any) -> frozenset[str]:
    if isinstance(value, (list, tuple)):
        return frozenset().union(*map(_islands, value))
    return value.islands if isinstance(value, Value) else frozenset()


def _constant(tensor: torch.Tensor) -> Value:
    array = tensor.double().numpy()
    return _exact(np.min(_unit(array)), array.min(), array.max(), frozenset())


def _whole(x: Any) -> Any:
    """The same with channels put together."""
    if isinstance(x, (list, tuple)):
        return [_whole(part) for part in x]
    first = x.phase.reshape(-1)[0]
    if (x.phase != first).any():
        return "puts channels together that are shifted differently"
    return replace(x, unit=np.min(x.unit), low=np.min(x.low), high=np.max(x.high), phase=np.asarray(first))


def _per_channel(constant: Any) -> Array:
    """A constant as () or, of shape (1, C, 1, 1), as (C,); of any other shape with two axes or more."""
    array = constant.double().numpy() if isinstance(constant, torch.Tensor) else np.asarray(constant, np.float64)
    if array.size == 1:
        return array.reshape(())
    if array.ndim == 4 and array.shape[0] == array.shape[2] == array.shape[3] == 1:
        return array.reshape(-1)
    return np.atleast_2d(array)


def _margin(values: Array) -> float:
    """How far values are from the next whole number, at the least."""
    return float(np.abs(values - np.round(values)).min())


def _from_ties(x: Value, step: float) -> float:
    """How far a lattice is from the ties of a quantizer; infinite for exact values, which all runtimes round alike."""
    if x.error == 0:
        return math.inf
    unit = min(float(np.min(x.unit)), step)
    away = np.mod(np.asarray(x.phase) - step / 2, unit)
    return float(np.minimum(away, unit - away).min())


def _from_quotients(x: Value, step: float) -> float:
    """How far quotients, shifted a little, are from the ties of a quantizer."""
    apart = min(float(np.min(x.unit)), step / 2) / x.over  # where they are not equal
    shift = float(np.max(np.abs(x.phase)))
    return min(shift, apart - shift)


def _told(x: Value) -> bool:
    """Whether something else than a lattice is known of a value."""
    return x.values is not None or x.over > 1


def _outputs(program: Any, deployed: nn.Module) -> list[str]:
    """The tasks, in the order of the graph's outputs."""
    spec = program.call_spec.out_spec
    return list(spec.context) if spec.context else [str(i) for i in range(spec.num_leaves)]


STEPS = {"permute", "flatten", "reshape", "view", "unflatten"}
STILL = {
    "to",
    "upsample_nearest2d",
    "contiguous",
    "clone",
    "alias",
    "_assert_tensor_metadata",
    "slice",
    "_to_copy",
    "dropout",
}
MOVING = {
    "reshape", "view", "permute", "transpose", "unflatten", "flatten", "chunk", "split", "split_with_sizes", "select",
    "getitem", "narrow", "unbind", "unsqueeze", "squeeze", "expand", *STILL,
}  # fmt: skip
PLACING = MOVING | {"cat"}  # whose values may be of several grids side by side, too far apart for a sum
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp, "gelu": _gelu, "sigmoid": _sigmoid, "softplus": lambda x: np.logaddexp(0, x), "sqrt": np.sqrt
}  # fmt: skip
RULES: dict[str, Callable[..., Any]] = dict.fromkeys(MOVING, _Walk.moved) | {
    "conv2d": _Walk.conv, "add": _Walk.add, "sub": _Walk.sub, "mul": _Walk.mul,
    "relu": _Walk.relu, "relu6": _Walk.relu6, "hardtanh": _Walk.hardtanh, "clamp": _Walk.clamp,
    "cat": _Walk.cat, "pad": _Walk.pad,
    "upsample_bilinear2d": _Walk.resize, "matmul": _Walk.matmul, "amax": _Walk.largest, "max_pool2d": _Walk.largest,
    "sum": _Walk.total, "argmax": _Walk.argmax, **dict.fromkeys(FUNCTIONS, _Walk.function), "div": _Walk.div,
    "floor": _Walk.floor, "grid_sampler": _Walk.sample,
}  # fmt: skip
