"""How the other files here change a model: on a copy, whose nodes they write anew."""

from __future__ import annotations

from typing import Any, Iterable

import numpy as np

from edgemtl.targets import _onnx

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def opened(model: Any) -> tuple[Any, dict[str, np.ndarray], dict[str, Any], dict[str, list[Any]]]:
    """A copy of a model, its constants, and who makes and who reads each of its values."""
    made = type(model)()
    made.CopyFrom(model)
    makers = {output: node for node in made.graph.node for output in node.output}
    readers: dict[str, list[Any]] = {output: [] for output in makers}
    for node in made.graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    return made, _onnx._constants(made.graph), makers, readers


def closed(model: Any, nodes: Iterable[Any], fresh: dict[str, Any]) -> Any:
    """The model with these nodes and new constants, without those that nobody reads."""
    from onnx import numpy_helper

    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]  # `del` below empties them
    used, count = set[str](), 0
    while count != len(kept):
        count, used = len(kept), {value for node in kept for value in node.input}
        used |= {output.name for output in model.graph.output}
        # A quantizer that nobody reads stays, for whoever reads the file back to see.
        kept = [node for node in kept if used.intersection(node.output) or node.op_type in QUANTIZERS]
    stored = [value for value in model.graph.initializer if value.name in used and value.name not in fresh]
    stored = [type(value).FromString(value.SerializeToString()) for value in stored]
    stored += [numpy_helper.from_array(np.asarray(value), name) for name, value in fresh.items() if name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(stored)
    return model
