"""Where quantizers stand in a deployed network's graph. The ledger lists that, and artifacts' files must agree."""

from collections import Counter
from typing import Any, Iterable, NamedTuple

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgemtl.quantization import quantizers
from edgemtl.records import ledger

# What hands a weight on to its layer as it is.
VIEWS = {
    "_unsafe_view", "alias", "clone", "contiguous", "detach", "expand", "flatten", "permute", "reshape", "squeeze", "t",
    "transpose", "unflatten", "unsqueeze", "view",
}  # fmt: skip
SHAPES = {"empty_like", "full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"}  # read no values


class Pairing(NamedTuple):
    """`ledger.sources` of every quantized tensor, by its name, and of every map, by its task."""

    reads: dict[str, list[list[str]]]  # of what an activation is rounded from; of what else a weight's layer reads
    outputs: dict[str, list[str]]
    runs: Counter[str]  # how often a quantizer stands in the graph


def ledger_entries(deployed: nn.Module, frame: torch.Tensor, program: ExportedProgram | None = None) -> dict[str, Any]:
    """What scales.json says of the quantized tensors and the maps of `deployed`, which takes frames like `frame`.

    `program` is its `quantizers.export`, where that is there already. The slot of a point that runs several times is
    listed as often.
    """
    places = pairing(deployed, program or quantizers.export(deployed, frame))
    rows = quantizers.ledger(deployed.network)  # type: ignore[arg-type]
    for row in rows:
        if row["slots"][0].startswith(quantizers.POINT):
            row["slots"] *= places.runs[row["name"]]
    return {"quantized": [row | {"reads": places.reads[row["name"]]} for row in rows], "outputs": places.outputs}


def pairing(deployed: nn.Module, program: ExportedProgram) -> Pairing:
    """The pairing of `deployed`, which gives a map for each task, in its graph."""
    if any(map(_changes_what_others_read, program.graph.nodes)):
        program = program.run_decompositions({})  # nothing is computed in place there; takes longer than the export
    program.graph.eliminate_dead_code()
    found = {
        node: deployed.get_submodule(scale.removesuffix(".scale")) for node, scale in quantizers.scales(program).items()
    }
    names = {node: str(quantizer.name) for node, quantizer in found.items()}

    def before(node: fx.Node) -> Iterable[fx.Node]:
        return node.all_input_nodes if quantizers.called(node) not in SHAPES else ()

    def above(start: Iterable[fx.Node], own: str | None = None) -> list[str]:
        return [name for name in ledger.sources(start, names.get, before) if name != own]

    reads: dict[str, list[list[str]]] = {name: [] for name in names.values()}
    for node, name in names.items():
        if found[node].role == "weight":
            standing = [above(layer.all_input_nodes, name) for layer in _layers(node)]
        else:
            standing = [above(node.all_input_nodes[:1])]
        reads[name] += [made_of for made_of in standing if made_of not in reads[name]]
    maps = pytree.tree_unflatten(program.graph.output_node().args[0], program.call_spec.out_spec)
    return Pairing(reads, {task: above([node]) for task, node in maps.items()}, Counter(names.values()))


def _changes_what_others_read(node: fx.Node) -> bool:
    """Whether a node computes in place, other than in a tensor that was just made and that nobody else reads."""
    if not quantizers.in_place(node.target):
        return False
    changed = node.args[0]
    assert isinstance(changed, fx.Node)
    return len(changed.users) > 1 or not (quantizers.in_place(changed.target) or _makes_a_tensor(changed))


def _makes_a_tensor(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and not any(made.alias_info for made in target._schema.returns)


def _layers(weight: fx.Node) -> Iterable[fx.Node]:
    for user in weight.users:
        if quantizers.called(user) in VIEWS:
            yield from _layers(user)
        else:
            yield user
