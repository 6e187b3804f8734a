"""Prepares the exported graph for coremltools, and notes what later steps need to know of its nodes.

Every node gets a number, coremltools' `debug_handle`; all operations that its passes make of the node carry it.
"""

from typing import Any, Iterable, NamedTuple

import torch
from torch import nn
from torch.export import ExportedProgram

from edgemtl.networks import purposes
from edgemtl.networks.session import InOrder
from edgemtl.quantization import quantizers
from edgemtl.quantization.quantizers import called
from edgemtl.records.ledger import reached
from edgemtl.targets.coreml.ops import BILINEAR, ZEROS, bordered_grid_sample

LAYERS = {"conv1d", "conv2d", "convolution", "conv_transpose2d", "linear", "addmm", "mm"}
DEPLOYED = "deployed."  # the module's path in `InOrder`
DIVISION = {"clamp_min", "expand", "div"}  # what follows a norm


class Graph(NamedTuple):
    program: ExportedProgram
    float32: set[int]  # numbers of the nodes that stay float32 whatever the precision
    quantizers: dict[int, str]  # number of a quantizing node -> the ledger's name of what it quantizes
    layers: dict[int, str]  # number of a layer's node -> the path of its module in the deployed network
    outputs: dict[str, Any]  # map -> torch's type
    codes: dict[str, Any]  # a weight's quantizing node, by its own name -> its int8 codes


def export(deployed: nn.Module, size: tuple[int, int], names: list[str]) -> Graph:
    """The graph of `deployed` for a frame (1, 3, H, W), with its maps in the order of `names`."""
    with torch.no_grad():
        program = quantizers.export(InOrder(deployed, names).eval(), torch.zeros(1, 3, *size)).run_decompositions({})
    graph = program.graph
    ledger = _ledger(program, deployed)
    _merge_equal(program, ledger)
    for node in list(graph.nodes):
        if called(node) == "_assert_tensor_metadata":
            graph.erase_node(node)
        elif called(node).startswith("grid_sampler"):
            tensor, grid, mode, padding, *rest = node.args
            if (mode, padding) == (BILINEAR, ZEROS):
                node.target, node.args = bordered_grid_sample, (tensor, grid, bool(rest and rest[0]))
        elif called(node) == "reciprocal":  # coremltools takes `inverse`, which adds 1e-4 to what it divides by
            node.target, node.args = torch.ops.aten.div.Tensor, (1.0, *node.args)
        elif called(node) == "max_pool2d" and len(node.args) == 2:
            node.args = (*node.args, node.args[1])  # coremltools does not know that the stride may be left out
    graph.eliminate_dead_code()
    graph.lint()
    weights = quantizers.weight_codes(deployed.network) if ledger else {}  # type: ignore[arg-type]
    codes = {}
    for node, name in ledger.items():
        node._rename(name)  # so that the package's operations are called after what they quantize
        if name in weights:
            codes[node.name] = weights[name].numpy()
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    for node, number in numbers.items():
        node.meta["debug_handle"] = number
    wide = _coordinates(graph, deployed) | _normalisation(graph) | _exact_attention(graph, deployed)
    float32 = {numbers[node] for node in wide}
    outputs = {name: node.meta["val"].dtype for name, node in zip(names, graph.output_node().args[0], strict=True)}
    layers = {numbers[node]: path for node, path in _layers(program).items()}
    return Graph(program, float32, {numbers[node]: name for node, name in ledger.items()}, layers, outputs, codes)


def _ledger(program: ExportedProgram, deployed: nn.Module) -> dict[Any, str]:
    """Every quantizing node with the ledger's name of what it quantizes."""
    entries = {}
    for node in program.graph.nodes:
        if called(node).startswith("fake_quantize"):
            scale = program.graph_signature.inputs_to_buffers[node.args[1].name]
            path = scale.removeprefix(DEPLOYED).removesuffix(".scale")
            entries[node] = str(deployed.get_submodule(path).name)
    return entries


def _layers(program: ExportedProgram) -> dict[Any, str]:
    """Every layer's node with the path of its module, known by its weight: under hooks module paths are cut short."""
    parameters, layers = program.graph_signature.inputs_to_parameters, {}
    for node in program.graph.nodes:
        weight = node.args[1] if called(node) in LAYERS else None
        while weight is not None and called(weight).startswith("fake_quantize"):
            weight = weight.args[0]
        if weight is not None and parameters.get(weight.name, "").startswith(DEPLOYED):
            layers[node] = parameters[weight.name].removeprefix(DEPLOYED).removesuffix(".weight")
    return layers


def _merge_equal(program: ExportedProgram, ledger: dict[Any, str]) -> None:
    """One node for all quantizers that do the same to one tensor: coremltools would merge them and lose the names."""
    buffers = program.graph_signature.inputs_to_buffers
    first: dict[Any, Any] = {}
    for node in list(ledger):
        tensor, scale, _, *rest = node.args
        numbers = program.state_dict[buffers[scale.name]].numpy()
        twin = first.setdefault((tensor, numbers.shape, numbers.tobytes(), *rest), node)
        if twin is not node:
            node.replace_all_uses_with(twin)
            del ledger[node]
            program.graph.erase_node(node)


def _coordinates(graph: Any, deployed: nn.Module) -> set[Any]:
    """Sampling and the operations from the offsets to it: in float16 a position may be half a pixel off at 1024."""
    samplings = [node for node in graph.nodes if called(node) in ("bordered_grid_sample", "grid_sampler")]

    def makes_positions(nodes: Iterable[Any]) -> list[Any]:
        operations = [node for node in nodes if node.op == "call_function" and node not in samplings]
        inside = {node for node in operations if purposes.belongs(node, deployed, purposes.COORDINATES)}
        return [node for node in operations if node in inside or called(node) not in LAYERS]

    grids = makes_positions(node.args[1] for node in samplings)
    return {*samplings, *reached(grids, lambda node: makes_positions(node.all_input_nodes))}


def _exact_attention(graph: Any, deployed: nn.Module) -> set[Any]:
    """Attention in the exact form, quantizers included: its sums are whole numbers up to 2**24, beyond float16."""
    if not getattr(deployed, "is_exact", False):
        return set()
    return {n for n in graph.nodes if n.op == "call_function" and purposes.belongs(n, deployed, purposes.ATTENTION)}


def _normalisation(graph: Any) -> set[Any]:
    """Division by a norm: in float16 squares overflow above 255, and the norm's lower bound of 1e-12 is 0."""
    norms = [node for node in graph.nodes if called(node) == "linalg_vector_norm"]
    return set(reached(norms, lambda node: [user for user in node.users if called(user) in DIVISION]))
