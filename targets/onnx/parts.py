"""An ONNX model taken apart: what several tasks need, and the rest of each task, which runs when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np

from edgemtl.target import Session


def split(model: Any, names: Iterable[str]) -> tuple[Any, dict[str, Any]]:
    """The shared part of a ModelProto with these outputs, and each task's own; values keep their names.

    Shared is what depends on the frame and more than one task needs. What is handed over behind a quantizer is int8:
    each task dequantizes it itself, as a runtime wants it before a layer that it computes in int8.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(model)
    graph, names = model.graph, list(names)
    makers = {value: node for node in graph.node for value in node.output}
    moving = _behind(graph)
    tasks: dict[str, set[str]] = {}  # by a node's first output
    for task in names:
        for node in _above([task], makers):
            if node.output[0] in moving:
                tasks.setdefault(node.output[0], set()).add(task)

    def shared(value: str) -> bool:
        return value in makers and len(tasks.get(makers[value].output[0], ())) > 1

    parts: dict[str, Any] = {}
    handed: dict[str, None] = {}
    for task in names:
        own: dict[str, Any] = {}
        given: dict[str, None] = {}
        waiting = [task]
        while waiting:
            value = waiting.pop()
            node = makers.get(value)
            if node is None or node.output[0] in own:
                continue
            if shared(value) and node.op_type != "DequantizeLinear":
                given[value] = handed[value] = None
            else:
                own[node.output[0]] = node
                waiting += node.input
        parts[task] = _part(model, own.values(), given, [task], task)
    return _part(model, _above(handed, makers), [graph.input[0].name], handed, "shared"), parts


def _behind(graph: Any) -> set[str]:
    """The values that are computed from the frame; nodes are in the order in which they run."""
    found = {made.name for made in graph.input}
    for node in graph.node:
        if found.intersection(node.input):
            found.update(node.output)
    return found


def _above(values: Iterable[str], makers: dict[str, Any]) -> list[Any]:
    """The nodes that compute values."""
    found: dict[str, Any] = {}
    waiting = list(values)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.output[0] not in found:
            found[node.output[0]] = node
            waiting += node.input
    return list(found.values())


def _part(model: Any, nodes: Collection[Any], inputs: Iterable[str], outputs: Iterable[str], name: str) -> Any:
    from onnx import helper

    graph = model.graph
    known = {made.name: made for made in (*graph.value_info, *graph.input, *graph.output)}
    kept = {node.output[0] for node in nodes}
    read = {value for node in nodes for value in node.input}
    made = helper.make_graph(
        [node for node in graph.node if node.output[0] in kept],
        name,
        [known[value] for value in inputs],
        [known[value] for value in outputs],
        [constant for constant in graph.initializer if constant.name in read],
    )
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)


class ApartSession(Session):
    """Maps of the tasks that are asked for, one frame at a time."""

    how, float32 = "executed", True

    def __init__(self, shared: Any, tasks: dict[str, Any], open: Callable[[bytes], Any], device: str) -> None:
        self.device = f"{device} in parts"
        self._shared = open(shared.SerializeToString())
        self._tasks = {task: open(part.SerializeToString()) for task, part in tasks.items()}
        self._handed = [value.name for value in self._shared.get_outputs()]
        self._reads = {task: [value.name for value in part.get_inputs()] for task, part in self._tasks.items()}

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """The maps (h, w) or (3, h, w) of an RGB uint8 frame (H, W, 3) of the manifest's size."""
        return self.only(frame, self._tasks)

    def only(self, frame: np.ndarray, tasks: Collection[str]) -> dict[str, np.ndarray]:
        """These tasks' maps alone; nothing else is computed."""
        if not tasks:
            return {}
        given = self._shared.run_with_ort_values(
            self._handed, {"frame": self._value(np.ascontiguousarray(frame)[None])}
        )
        values = dict(zip(self._handed, given))
        made = {
            task: self._tasks[task].run_with_ort_values([task], {name: values[name] for name in self._reads[task]})
            for task in tasks
        }
        return {task: value.numpy()[0] for task, [value] in made.items()}

    def apart(self) -> Session:
        """Itself."""
        return self

    @staticmethod
    def _value(array: np.ndarray) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
