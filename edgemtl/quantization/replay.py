"""Runs a quantized network's graph operation by operation, with any of its quantizers switched on.

It uses no hooks, which cost as much time as the arithmetic, and computes only the operations that a change reaches.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from edgemtl.quantization import quantizers
from edgemtl.quantization.quantizers import FakeQuantize

Values = dict[fx.Node, Any]
Watch = Callable[[FakeQuantize, Tensor], None]


class Replay:
    """The graph of `network`, which has quantizers, for inputs of the example's shape.

    Weights, biases and scales are the network's tensors. A quantizer that is removed from the network stays here.
    """

    def __init__(self, network: nn.Module, example: Tensor):
        self.network = network
        self.program = quantizers.export(network, example)
        self._constants: Values = dict(quantizers.constants(self.program, network))
        placeholders = self.program.graph.find_nodes(op="placeholder")
        (self._image,) = (node for node in placeholders if node not in self._constants)
        at = quantizers.slots(network)
        self.quantizers: dict[fx.Node, FakeQuantize] = {}
        for node, scale in quantizers.scales(self.program).items():
            module = at[quantizers.slot(scale)]
            assert isinstance(module, FakeQuantize)
            self.quantizers[node] = module
        for node in self.program.graph.nodes:  # what is written in place is copied first: nobody else may want it
            assert not quantizers.in_place(node.target) or len(node.args[0].users) == 1, (
                f"{node} changes what others read"
            )

    def run(self, image: Tensor, on: Collection[FakeQuantize] = (), watch: Watch | None = None) -> dict[str, Tensor]:
        """The raw outputs; `watch` sees what reaches each quantizer, on or not."""
        return self.outputs(self.values(image, on, watch))

    def values(self, image: Tensor, on: Collection[FakeQuantize] = (), watch: Watch | None = None) -> Values:
        """The value of every node."""
        return self._filled({**self._constants, self._image: image}, on, watch)

    def again(self, values: Values, on: Collection[FakeQuantize]) -> dict[str, Tensor]:
        """The raw outputs with these quantizers on; `values` are the nodes' with all quantizers off."""
        changed: set[fx.Node] = set()
        for node in self.program.graph.nodes:
            if self.quantizers.get(node) in on or not changed.isdisjoint(node.all_input_nodes):
                changed.add(node)
        return self.outputs(self._filled({node: x for node, x in values.items() if node not in changed}, on, None))

    def outputs(self, values: Values) -> dict[str, Tensor]:
        """The raw outputs among the values, by task."""
        (output,) = (node for node in self.program.graph.nodes if node.op == "output")
        return _pytree.tree_unflatten(values[output], self.program.call_spec.out_spec)

    def _filled(self, values: Values, on: Collection[FakeQuantize], watch: Watch | None) -> Values:
        """`values`, and the values of the nodes that are not among them."""
        with torch.no_grad():
            _Steps(self, on, watch).run(initial_env=values, enable_io_processing=False)
        return values


class _Steps(fx.Interpreter):
    def __init__(self, replay: Replay, on: Collection[FakeQuantize], watch: Watch | None):
        super().__init__(replay.program.graph_module, garbage_collect_values=False)
        self.quantizers, self.on, self.watch = replay.quantizers, on, watch

    def run_node(self, n: fx.Node) -> Any:
        quantizer = self.quantizers.get(n)
        if quantizer is None:
            return super().run_node(n)
        x = self.env[n.all_input_nodes[0]]
        if self.watch is not None:
            self.watch(quantizer, x)
        return quantizer.fast(x) if quantizer in self.on else x

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if quantizers.in_place(target):
            args = (args[0].clone(), *args[1:])
        return super().call_function(target, args, kwargs)
