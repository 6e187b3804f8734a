"""The exact network in plain operations, for runtimes that edgemtl has no target for: what the further judges run.

"float": every quantizer is a multiplication, a rounding, a clamp and a multiplication in float32, weights are float32.
"int8": quantize and dequantize with the ledger's scales and codes, which a runtime may fuse with the layers between.
"""

from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from edgemtl.quantization import quantizers
from edgemtl.records import ledger
from edgemtl.records.ledger import HIGH, LOW
from edgemtl.tasks import Size

ACTIVATIONS = {"relu", "hardtanh"}


class Form(NamedTuple):
    """A network as a program: frame (1, H, W, 3) uint8 -> maps in the order of `tasks`, then values at `places`."""

    program: ExportedProgram
    tasks: list[str]
    places: dict[str, float]  # of activations, with their scales; empty where they are no outputs
    layers: int  # that may run on codes alone: quantized before and behind


class Note:
    """What quantizers gave in one run, in order; no container, so that torch.export leaves it alone."""

    def __init__(self) -> None:
        self.found: list[tuple[str, float, Tensor]] = []

    def places(self) -> dict[str, float]:
        counts: dict[str, int] = {}
        named = {}
        for name, scale, _ in self.found:
            named[ledger.node_name(name, counts.get(name, 0))] = scale
            counts[name] = counts.get(name, 0) + 1
        return named


class Rounded(nn.Module):
    """An activation's quantizer in float32 arithmetic."""

    def __init__(self, quantizer: quantizers.FakeQuantize, note: Note):
        super().__init__()
        self.name, self.scale, self.note = quantizer.name, float(quantizer.scale), note

    def forward(self, x: Tensor) -> Tensor:
        y = self.value(x)
        self.note.found.append((self.name, self.scale, y))
        return y

    def value(self, x: Tensor) -> Tensor:
        return torch.round(x * (1 / self.scale)).clamp(LOW, HIGH) * self.scale


class Coded(Rounded):
    """An activation's quantizer as codes and back."""

    def value(self, x: Tensor) -> Tensor:
        how = (self.scale, 0, LOW, HIGH, torch.int8)
        codes = torch.ops.quantized_decomposed.quantize_per_tensor(x, *how)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(codes, *how)


class CodedWeight(nn.Module):
    """A weight's stored codes (in place of what arrives), or its codes from values on the grid, and back."""

    def __init__(self, quantizer: quantizers.FakeQuantize, codes: Tensor | None):
        super().__init__()
        self.axis = quantizer.axis
        self.register_buffer("scale", quantizer.scale)
        self.register_buffer("zero", torch.zeros_like(quantizer.scale, dtype=torch.int64))
        self.register_buffer("codes", codes)

    def forward(self, weight: Tensor) -> Tensor:
        how = (self.scale, self.zero, self.axis, LOW + 1, HIGH, torch.int8)  # the range that runtimes want of weights
        codes = self.codes
        if codes is None:
            codes = torch.ops.quantized_decomposed.quantize_per_channel(weight, *how)
        return torch.ops.quantized_decomposed.dequantize_per_channel(codes, *how)


class Camera(nn.Module):
    """The network with a camera's frame as input, and the quantizers' values behind the maps where asked for."""

    def __init__(self, deployed: nn.Module, tasks: list[str], note: Note, probe: bool):
        super().__init__()
        self.deployed, self.tasks, self.note, self.probe = deployed, tasks, note, probe

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        self.note.found.clear()
        maps = self.deployed(frame.permute(0, 3, 1, 2).float())
        inside = [value for _, _, value in self.note.found] if self.probe else []
        return (*(maps[task] for task in self.tasks), *inside)


def rounded(deployed: nn.Module, size: Size, probe: bool) -> Form:
    """The float form, in place."""
    note = Note()
    for quantizer, slots in quantizers.quantizers(deployed.network).items():
        plain = Rounded(quantizer, note) if quantizer.role == "activation" else nn.Identity()
        for slot in slots:
            quantizers.refill(deployed.network, slot, plain)
    return _export(deployed, size, note, probe, 0)


def coded(deployed: nn.Module, size: Size, probe: bool, stored: bool) -> Form:
    """The int8 form, in place.

    `stored`: codes for the layers that can run on codes alone, float weights for the rest, for a runtime that fuses
    nothing else. Otherwise all weights are on the grid and the converter takes their codes.
    """
    import torch.ao.quantization.fx._decomposed  # noqa: F401  registers the operations

    note, codes = Note(), quantizers.weight_codes(deployed.network)
    fused = layers(deployed, size)
    for quantizer, slots in quantizers.quantizers(deployed.network).items():
        made: nn.Module = nn.Identity()
        if quantizer.role == "activation":
            made = Coded(quantizer, note)
        elif not stored or quantizer.name in fused:
            made = CodedWeight(quantizer, codes[quantizer.name] if stored else None)
        for slot in slots:
            quantizers.refill(deployed.network, slot, made)
    form = _export(deployed, size, note, probe, len(fused))
    _part(form.program.graph)
    form.program.graph_module.recompile()
    return form


def layers(deployed: nn.Module, size: Size) -> set[str]:
    """The weights of convolutions that read codes and whose results are nothing but quantized."""
    program = quantizers.export(deployed, torch.zeros(1, 3, *size)).run_decompositions({})
    scales, found = quantizers.scales(program), set()
    for node in program.graph.nodes:
        if node.op != "call_function" or quantizers.called(node) != "conv2d":
            continue
        source, weight = node.args[:2]
        readers = list(node.users)
        while len(readers) == 1 and quantizers.called(readers[0]) in ACTIVATIONS:
            readers = list(readers[0].users)
        source = source.args[0] if quantizers.called(source) == "pad" else source
        if len(readers) == 1 and all(map(quantizers.quantizes, (source, weight, readers[0]))):
            found.add(deployed.get_submodule(scales[weight].removesuffix(".scale")).name)
    return found


def _export(deployed: nn.Module, size: Size, note: Note, probe: bool, fused: int) -> Form:
    with torch.no_grad():
        tasks = list(deployed(torch.zeros(1, 3, *size)))
        camera = Camera(deployed, tasks, note, probe).eval()
        program = quantizers.export(camera, torch.zeros(1, *size, 3, dtype=torch.uint8)).run_decompositions({})
    return Form(program, tasks, note.places() if probe else {}, fused)


def _part(graph: fx.Graph) -> None:
    """Leaves nothing but layers, and padding before them, between codes and codes.

    Each reader gets a dequantize operation of its own, padded codes are quantized once more, and what is no layer has a
    rounding between itself and codes, which changes no bit. Without these, XNNPACK takes codes where values are meant,
    and LiteRT's converter lets codes through operations that give values between codes and rounds there: seven
    resizings, a sum and a quantizer of nyud_edge, after which 1 % of the pixels got another class.
    """
    decomposed = torch.ops.quantized_decomposed
    for node in list(graph.nodes):
        if node.target is decomposed.quantize_per_tensor.default and not _layer(node.args[0]):
            with graph.inserting_before(node):
                node.replace_input_with(node.args[0], _rounding(graph, node.args[0], node.args[1]))
        if node.target is not decomposed.dequantize_per_tensor.default:
            continue
        for reader in list(node.users):
            with graph.inserting_before(reader):
                own = graph.node_copy(node)
                kind = quantizers.called(reader)
                layer = kind in ("conv2d", "pad") or reader.op == "output"
                reader.replace_input_with(node, own if layer else _rounding(graph, own, node.args[1]))
            if kind == "pad":
                _again(graph, reader, node)
        graph.erase_node(node)
    graph.lint()


def _layer(node: fx.Node) -> bool:
    """Whether it is a convolution's result, perhaps behind its activation."""
    while quantizers.called(node) in ACTIVATIONS:
        node = node.args[0]
    return quantizers.called(node) == "conv2d"


def _rounding(graph: fx.Graph, value: fx.Node, scale: float) -> fx.Node:
    """To the next multiple of the scale, half to even, in float32."""
    made = value
    for target, args in (
        (torch.ops.aten.mul.Tensor, (1 / scale,)),
        (torch.ops.aten.round.default, ()),
        (torch.ops.aten.mul.Tensor, (scale,)),
    ):
        made = graph.call_function(target, (made, *args))
        made.meta = dict(value.meta)
    return made


def _again(graph: fx.Graph, padded: fx.Node, dequantize: fx.Node) -> None:
    """Quantizes and dequantizes what was padded, as before it was."""
    how = dequantize.args[1:6]
    with graph.inserting_after(padded):
        codes = graph.call_function(torch.ops.quantized_decomposed.quantize_per_tensor.default, (padded, *how))
    with graph.inserting_after(codes):
        values = graph.call_function(dequantize.target, (codes, *how))
    codes.meta = padded.meta | {"val": padded.meta["val"].to(torch.int8)}
    values.meta = dict(padded.meta)
    padded.replace_all_uses_with(values, lambda user: user is not codes)
