"""A quantized network's graph run operation by operation, with any of its quantizers switched on.

Without hooks, which cost as much time as the arithmetic, and only as much of it as a change reaches.
"""

from collections import ChainMap
from collections.abc import Callable, Collection, MutableMapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from edgemtl.quantization import quantizers
from edgemtl.quantization.quantizers import FakeQuantize

Values = MutableMapping[fx.Node, Any]
Watch = Callable[[FakeQuantize, Tensor], None]


class Replay:
    """The graph of `network`, which has quantizers, for inputs of the example's shape.

    Weights, biases and scales are the network's own tensors; a quantizer that is removed from it stays here.
    """

    def __init__(self, network: nn.Module, example: Tensor):
        self.network = network
        self.program = quantizers.export(network, example)
        self._image, self._constants = self._split(network)
        at = quantizers.slots(network)
        self.quantizers: dict[fx.Node, FakeQuantize] = {}
        for node, scale in quantizers.scales(self.program).items():
            module = at[quantizers.slot(scale)]
            assert isinstance(module, FakeQuantize)
            self.quantizers[node] = module
        self._steps = [node for node in self.program.graph.nodes if node.op == "call_function"]
        for node in self._steps:  # what is written in place is copied first: nobody else may want the new values
            assert not _in_place(node) or len(_first(node).users) == 1, f"{node} changes what others read"

    def run(self, image: Tensor, on: Collection[FakeQuantize] = (), watch: Watch | None = None) -> dict[str, Tensor]:
        """The raw outputs; `watch` sees what reaches each quantizer, on or not."""
        return self.outputs(self.values(image, on, watch))

    def values(self, image: Tensor, on: Collection[FakeQuantize] = (), watch: Watch | None = None) -> Values:
        """What every node gives."""
        values: Values = {**self._constants, self._image: image}
        for node in self._steps:
            values[node] = self._step(node, values, on, watch)
        return values

    def again(self, values: Values, on: Collection[FakeQuantize]) -> dict[str, Tensor]:
        """The raw outputs with these quantizers on, computed from there on; `values` are those with all off."""
        changed: ChainMap[fx.Node, Any] = ChainMap({}, values)
        for node in self._steps:
            if self.quantizers.get(node) in on or any(source in changed.maps[0] for source in node.all_input_nodes):
                changed[node] = self._step(node, changed, on, None)
        return self.outputs(changed)

    def outputs(self, values: Values) -> dict[str, Tensor]:
        """The raw outputs among the values, by task."""
        (made,) = (node for node in self.program.graph.nodes if node.op == "output")
        flat = [values[node] for node in made.args[0]]
        found: dict[str, Tensor] = _pytree.tree_unflatten(flat, self.program.call_spec.out_spec)
        return found

    def _split(self, network: nn.Module) -> tuple[fx.Node, Values]:
        """The placeholder of the image, and the values of all others."""
        signature = self.program.graph_signature
        own = dict(network.named_parameters(remove_duplicate=False)) | dict(
            network.named_buffers(remove_duplicate=False)
        )
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        constants: Values = {}
        for node in self.program.graph.nodes:
            if node.name in named:
                constants[node] = own[named[node.name]]
            elif node.name in signature.inputs_to_lifted_tensor_constants:
                constants[node] = self.program.constants[signature.inputs_to_lifted_tensor_constants[node.name]]
            elif node.op == "placeholder":
                image = node
        return image, constants

    def _step(self, node: fx.Node, values: Values, on: Collection[FakeQuantize], watch: Watch | None) -> Any:
        quantizer = self.quantizers.get(node)
        if quantizer is not None:
            x = values[_first(node)]
            if watch is not None:
                watch(quantizer, x)
            return quantizer.fast(x) if quantizer in on else x
        given: Any = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        args, kwargs = given
        if _in_place(node):
            args = (args[0].clone(), *args[1:])
        assert callable(node.target)
        with torch.no_grad():
            return node.target(*args, **kwargs)


def _first(node: fx.Node) -> fx.Node:
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def _in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
