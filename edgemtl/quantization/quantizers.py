"""The one int8 form that every target writes, and the places in a network that have it.

Values are signed and symmetric with zero point 0. Weights have a scale for each output channel, activations one scale
for the tensor. TensorRT, OpenVINO, ONNX' QuantizeLinear and Core ML all know this form.

By default the codes of weights lie in -64..63. A CPU without VNNI adds two products of 8 bits each in 16 bits, and
255 * (64 + 64) is the largest sum that fits. The codes of activations lie in -128..127.

By default scales are powers of two. Then a layer adds multiples of one number. As long as a sum stays below 2**24
multiples, float32 holds it exactly, so neither order nor kernel nor processor can change a bit. All scales are float16
numbers (Core ML casts them). None is below 2**-14: smaller float16 numbers are subnormal, and some accelerators flush
them to zero.

Quantizers hang on the operations of a network by NNCF's function hooks, or sit in a `Point` of a module. A slot is
such a place: before or after an operation, and which of its inputs or outputs; or the path of a point.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Any, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgemtl.ground.errors import UsageError
from edgemtl.networks import checkpoint, purposes
from edgemtl.networks.points import Point
from edgemtl.networks.watching import watching
from edgemtl.quantization import nncf
from edgemtl.records.ledger import CODES, FORMAT, HIGH, LARGEST, LOW, SMALLEST, reached

BITS = 8  # of activations
POINT = "points."  # before the path of a point, in the name of its slot

WEIGHTED = {"conv1d", "conv2d", "convolution", "conv_transpose2d", "linear", "addmm", "mm"}
SUMS = {"add", "add_"}
# These operations only move, clip or average values: a layer behind one of them reads the quantizer before it.
MOVES = {
    "_unsafe_view", "alias", "cat", "chunk", "clamp", "clone", "contiguous", "dropout", "expand", "flatten", "getitem",
    "hardtanh", "hardtanh_", "max_pool2d", "narrow", "pad", "permute", "relu", "relu_", "reshape", "select", "slice",
    "split", "split_with_sizes", "squeeze", "transpose", "unbind", "unflatten", "unsqueeze", "upsample_bilinear2d",
    "upsample_nearest2d", "view",
}  # fmt: skip
AVERAGES = {"upsample_bilinear2d", "cat"}  # those of MOVES whose output need not be codes of one scale


def snap(scale: Tensor) -> Tensor:
    """The nearest scales that float16 holds exactly and normally, as float32."""
    return scale.float().clamp(SMALLEST, LARGEST).half().float()


def power(scale: Tensor) -> Tensor:
    """The nearest powers of two that are not smaller, within float16's normal numbers, as float32."""
    return torch.exp2(scale.double().clamp(SMALLEST, LARGEST / 2).log2().ceil()).float()


def codes(value: Tensor, scale: Tensor, axis: int | None, bits: int = BITS) -> Tensor:
    """The int8 codes of a tensor, rounded half to even; code * scale is what the quantizer gives back."""
    # Times the reciprocal, as torch.fake_quantize does it: a division would differ by one code now and then.
    return (value * along(scale, axis, value.ndim).reciprocal()).round().clamp(*CODES[bits]).to(torch.int8)


def decode(code: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    """The float32 tensor that int8 codes stand for."""
    return code.float() * along(scale, axis, code.ndim)


def nearest(value: Tensor, scale: Tensor, bits: int = BITS) -> Tensor:
    """What `decode` gives of `codes`, for one scale, in one piece of memory: new ones cost more than the arithmetic."""
    return (value * scale.reciprocal()).round_().clamp_(*CODES[bits]).mul_(scale)


def along(scale: Tensor, axis: int | None, ndim: int) -> Tensor:
    """The scale in a shape that multiplies a tensor of `ndim` axes."""
    return scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(ndim)])


class FakeQuantize(nn.Module):
    """Rounds a tensor to int8 and back, without branches: one operation in an exported graph.

    `scale` is a scalar, or (C,) along `axis`. While `tuning`, it computes the same bits faster on a CPU, but in several
    operations. `tuning` is not the module's training mode, because that must not change what is exported.
    """

    scale: Tensor
    zero_point: Tensor
    tuning = False

    def __init__(self, scale: Tensor, axis: int | None, role: str, name: str, bits: int = BITS):
        super().__init__()
        assert role in ("weight", "activation") and (scale.ndim == 0) == (axis is None)
        self.axis, self.role, self.name, self.bits = axis, role, name, bits
        self.low, self.high = CODES[bits]
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros_like(scale, dtype=torch.int32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fast(x) if self.tuning else self._round(x)

    def fast(self, x: Tensor) -> Tensor:
        """What forward gives while `tuning`."""
        if x.device.type != "cpu":
            return self._round(x.float()).to(x.dtype)
        scale = along(self.scale, self.axis, x.ndim)
        return _StraightThrough.apply(x, scale, self.low, self.high)

    def _round(self, x: Tensor) -> Tensor:
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.low, self.high)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, self.axis, self.low, self.high)

    def extra_repr(self) -> str:
        return f"{self.name}, {self.role}, {self.bits} bits, axis={self.axis}, scales={self.scale.numel()}"


class _StraightThrough(torch.autograd.Function):
    """fake_quantize with vector instructions, where torch's own has none; the gradient passes where nothing clips."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.limits = low - 0.5, high + 0.5
        if x.dtype == torch.float32:
            y = x * scale.reciprocal()
        else:  # bfloat16 under autocast: the arithmetic must not happen in it
            y = x.float().mul_(scale.reciprocal())
        return F.hardtanh_(y.round_(), low, high).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, scale = ctx.saved_tensors
        low, high = ctx.limits
        if scale.ndim == 0:
            step = scale.item()
            return torch.ops.aten.hardtanh_backward(grads[0], x, low * step, high * step), None, None, None
        return grads[0] * ((x >= low * scale) & (x <= high * scale)), None, None, None


# ---- where they sit


def points(network: nn.Module) -> dict[str, Point]:
    """Every point of a network, by the name of its slot."""
    return {POINT + path: module for path, module in network.named_modules() if isinstance(module, Point)}


def _point(network: nn.Module, slot: str) -> Point:
    """The point of a slot, found without a walk through the network: there are hundreds of both."""
    point = network.get_submodule(slot.removeprefix(POINT))
    assert isinstance(point, Point), slot
    return point


def slots(network: nn.Module) -> dict[str, nn.Module]:
    """What hangs in each slot of a network, by the slot's name; one module may hang in several."""
    filled = {slot: point.quantizer for slot, point in points(network).items()}
    filled = {slot: module for slot, module in filled.items() if not isinstance(module, nn.Identity)}
    return nncf.hooks(network) | filled


def slot(scale: str) -> str:
    """The slot, or the first of the slots, of the quantizer whose scale has this name in an exported graph."""
    path = scale.removesuffix(".scale")
    hooked = path.removeprefix(nncf.HOOKS)
    return hooked if hooked != path else POINT + path.removesuffix(".quantizer")


def quantizers(network: nn.Module) -> dict[FakeQuantize, list[str]]:
    """Every quantizer of a network with its slots."""
    slots_of: dict[FakeQuantize, list[str]] = {}
    for slot, module in slots(network).items():
        if isinstance(module, FakeQuantize):
            slots_of.setdefault(module, []).append(slot)
    return slots_of


def insert(network: nn.Module, slot: str, quantizer: nn.Module) -> None:
    """Hangs a quantizer into a slot of the network, in place."""
    if slot.startswith(POINT):
        _point(network, slot).quantizer = quantizer
    else:
        nncf.hang(network, slot, quantizer)


def remove(network: nn.Module, slot: str) -> None:
    """Empties a slot."""
    if slot.startswith(POINT):
        _point(network, slot).quantizer = nn.Identity()
    else:
        nncf.unhang(network, slot)


def refill(network: nn.Module, slot: str, module: nn.Module) -> None:
    """Hangs a module into a slot in place of what was there."""
    remove(network, slot)
    insert(network, slot, module)


def operation(slot: str) -> str:
    """A readable name of a slot: the operation and, before it, which input."""
    if slot.startswith(POINT):
        return slot.removeprefix(POINT)
    return nncf.operation(slot)


def arrivals(network: nn.Module, example: Tensor, modules: Iterable[nn.Module]) -> dict[nn.Module, Tensor]:
    """The first tensor that reaches each module in one run; a module that is missing never ran."""
    first: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        first.setdefault(module, inputs[0])

    with torch.no_grad(), watching(modules, note):
        network(example)
    return first


# ---- on disk


def ledger(network: nn.Module) -> list[dict[str, Any]]:
    """Every quantized tensor: name, role, bits, axis, scale(s), slots and the SHA-256 of a weight's int8 codes."""
    rows, weights = [], weight_codes(network)
    for quantizer, places in quantizers(network).items():
        row = _entry(quantizer) | {"scale": quantizer.scale.tolist(), "slots": places}
        if quantizer.role == "weight":
            row["sha256"] = hashlib.sha256(weights[quantizer.name].numpy().tobytes()).hexdigest()
        rows.append(row)
    return rows


def _entry(quantizer: FakeQuantize) -> dict[str, Any]:
    return {key: getattr(quantizer, key) for key in ("name", "role", "bits", "axis")}


def weight_codes(network: nn.Module) -> dict[str, Tensor]:
    """The int8 codes of every quantized weight, by its name: what every target writes, and none computes again."""
    parameters = dict(network.named_parameters())
    return {
        q.name: codes(parameters[q.name].detach(), q.scale, q.axis, q.bits).cpu().contiguous()
        for q in quantizers(network)
        if q.role == "weight"
    }


def save(path: Path, network: nn.Module, about: dict[str, Any]) -> None:
    """Writes weights (quantized ones as int8 codes), scales and slots of a network to one safetensors file."""
    modules = network.named_modules(remove_duplicate=False)
    scales = {f"{path}.scale" for path, module in modules if isinstance(module, FakeQuantize)}
    tensors = {name: value for name, value in network.state_dict().items() if name not in scales}
    tensors |= weight_codes(network)
    placed = []
    for index, (quantizer, places) in enumerate(quantizers(network).items()):
        tensors[f"scale/{index}"] = quantizer.scale
        placed.append(_entry(quantizer) | {"slots": places})
    checkpoint.save(path, tensors, {**about, "format": FORMAT, "quantizers": placed})


def check_format(path: Path, about: dict[str, Any]) -> None:
    """UsageError where what a file says about itself is not of this version."""
    if about.get("format") == "edgemtl int8 1":
        raise UsageError(f"{path} is of int8 scheme 1, whose codes overflow on CPUs without VNNI; compress again")
    if about.get("format") != FORMAT:
        raise UsageError(f"{path} holds no int8 weights of this version: its format is {about.get('format')!r}")


def load(path: Path, network: nn.Module, example: Tensor, *, tuned: bool = False) -> nn.Module:
    """The prepared `network` in eval mode with the weights and quantizers of a file of `save`, in place.

    Quantizers clip to the range of 8 bits, the only one that converters know; the codes in the file are within their
    own range. Where the weights are `tuned` afterwards, quantizers clip to that. UsageError where the file is missing,
    broken or of another network: each quantizer must run, on the tensor that it names.
    """
    tensors, about = checkpoint.load(path)
    check_format(path, about)
    slots_of = {}
    for index, placed in enumerate(about["quantizers"]):
        name, axis, scale = placed["name"], placed["axis"], tensors.pop(f"scale/{index}")
        if placed["role"] == "weight":
            tensors[name] = decode(tensors[name], scale, axis)
        quantizer = FakeQuantize(scale, axis, placed["role"], name, placed["bits"])
        if not tuned:
            quantizer.low, quantizer.high = LOW, HIGH
        slots_of[quantizer] = placed["slots"]
    checkpoint.restore(network, tensors, path)
    for quantizer, places in slots_of.items():
        for slot in places:
            insert(network, slot, quantizer)
    network.eval()
    inputs, parameters = arrivals(network, example, slots_of), dict(network.named_parameters())
    for quantizer in slots_of:
        if quantizer not in inputs or (
            quantizer.role == "weight" and inputs[quantizer] is not parameters[quantizer.name]
        ):
            raise UsageError(f"{path} does not fit the recipe's network: no {quantizer.name} where it has a quantizer")
    return network


# ---- what the graph says


def export(network: nn.Module, example: Tensor) -> ExportedProgram:
    """The graph that targets lower, for inputs of the example's shape.

    Its nodes don't say which lines called them. Finding that out is more than a quarter of what an export takes.
    """
    with torch.no_grad(), nncf.hooks_in_tables(network), _without_stack_traces():
        return torch.export.export(network, (example,))


@contextlib.contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Meanwhile, nodes of graphs get no stack traces."""
    config: Any = torch.fx.config  # in an older torch without this option
    kept = getattr(config, "do_not_emit_stack_traces", False)
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = kept


def constants(program: ExportedProgram, network: nn.Module) -> dict[torch.fx.Node, Tensor]:
    """The tensor of every placeholder but the example's: the network's own parameters and buffers, and constants."""
    signature = program.graph_signature
    own = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers(remove_duplicate=False))
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    held: dict[torch.fx.Node, Tensor] = {}
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in names:
            held[node] = own[names[node.name]].detach()
        elif node.name in lifted:
            held[node] = program.constants[lifted[node.name]]
    return held


def quantizes(node: torch.fx.Node) -> bool:
    """Whether a node rounds to codes."""
    return node.op == "call_function" and "fake_quantize" in str(node.target)


def called(node: torch.fx.Node) -> str:
    """The operation's name, such as conv2d."""
    target: Any = node.target
    return str(getattr(getattr(target, "overloadpacket", target), "__name__", target))


def in_place(target: Any) -> bool:
    """Whether what a node calls writes into one of its inputs."""
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def scales(program: ExportedProgram) -> dict[torch.fx.Node, str]:
    """The quantizing nodes of a graph, each with the name of the buffer that holds its scale."""
    buffers = program.graph_signature.inputs_to_buffers  # made anew at every look
    return {node: buffers[node.all_input_nodes[1].name] for node in program.graph.nodes if quantizes(node)}


def read_by(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The quantizing nodes of what a weighted layer reads; [] for any other node, or where it reads none.

    Also those before operations that only move values.
    """
    if called(node) not in WEIGHTED:
        return []
    passed = reached(node.all_input_nodes, lambda n: n.all_input_nodes if called(n) in MOVES else ())
    return [n for n in passed if quantizes(n)]


def on_coordinates(program: ExportedProgram, network: nn.Module) -> list[str]:
    """The quantizers (names of their scales) that sit on a sampling coordinate; there should be none.

    The search starts at each grid_sample's grid and goes up, through layers of modules for coordinates, to the first
    other layer. That layer reads features, which may be quantized; its output is a coordinate.
    """

    def upstream(node: torch.fx.Node) -> Iterable[torch.fx.Node]:
        if called(node) not in WEIGHTED or purposes.belongs(node, network, purposes.COORDINATES):
            return node.all_input_nodes
        return []

    samplings = [n for n in program.graph.nodes if n.op == "call_function" and "grid_sampler" in str(n.target)]
    path = set(reached([n.args[1] for n in samplings if isinstance(n.args[1], torch.fx.Node)], upstream))
    return sorted({name for node, name in scales(program).items() if node in path})


def at_point(scale: str) -> bool:
    """Whether the quantizer whose scale has this name sits in a point."""
    return slot(scale).startswith(POINT)


def doubled(program: ExportedProgram) -> list[str]:
    """Activation quantizers (names of their scales), outside points, right before or behind a point's."""
    scale_of, moves = scales(program), MOVES - AVERAGES
    names = []
    for node, name in scale_of.items():
        sources = reached(node.all_input_nodes[:1], lambda n: n.all_input_nodes if called(n) in moves else ())
        codes = [source for source in sources if source in scale_of]
        if at_point(name):
            names += [scale_of[source] for source in codes if not at_point(scale_of[source])]
        elif any(at_point(scale_of[source]) for source in codes):
            names.append(name)
    return names


def idle(program: ExportedProgram) -> list[str]:
    """Activation quantizers (names of their scales) that bring no layer into int8: they only cost accuracy and time.

    Some have no layer behind them. Others stand between a layer and a sum: a runtime adds a layer's output to the other
    input while it is still in the accumulator's wide type, and a quantizer between the two prevents that. In
    nyud_edge's network 39 of 117 are of this kind, in nyud_mqtransformer_edge's 53 of 179; without them OpenVINO runs
    as many layers in int8. A sum that another sum reads keeps its quantizer: otherwise the trunk of a chain of residual
    blocks would be float.
    """
    parameters = program.graph_signature.inputs_to_parameters
    names = []
    for node, name in scales(program).items():
        if node.all_input_nodes[0].name not in parameters:
            after = reached(node.users, lambda n: n.users)
            readers = reached(node.users, lambda n: n.users if called(n) in MOVES else ())
            needed = any(called(n) in WEIGHTED for n in readers) or called(node.all_input_nodes[0]) in SUMS
            if not (needed and any(called(n) in WEIGHTED for n in after)):
                names.append(name)
    return names
