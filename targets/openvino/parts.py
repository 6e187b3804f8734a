"""A model taken apart: what several tasks need, and the rest of each task, which runs when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import numpy as np

from edgemtl.ledger import HIGH, LOW
from edgemtl.target import How, Session

SHARED = "shared"
CHANNELS_LAST, CHANNELS_FIRST = np.array([0, 2, 3, 1]), np.array([0, 3, 1, 2])


class Parts(NamedTuple):
    """A model in parts. Outputs of `shared` and inputs of the tasks' models have the same names."""

    shared: Any
    tasks: dict[str, Any]


def split(model: Any, names: Iterable[str]) -> Parts:
    """The parts of an ov.Model with these outputs, which is used up.

    Shared is what depends on the frame and more than one task needs. What a quantizer gives is handed over as codes, so
    that both sides compute in int8.
    """
    from openvino import Model

    _fix_sizes(model)
    results = {name: model.output(name).node for name in names}
    moving = _behind(model)
    tasks: dict[str, list[str]] = {}  # by the node's name
    for task, result in results.items():
        for name in _above(result) & moving:
            tasks.setdefault(name, []).append(task)
    shared = [node for node in model.get_ordered_ops() if len(tasks.get(node.get_friendly_name(), ())) > 1]
    handed: list[Any] = []
    inputs: dict[str, list[Any]] = {task: [] for task in results}
    for port in (port for node in shared for port in node.outputs()):
        readers: dict[str, list[Any]] = {}
        for reader in port.get_target_inputs():
            if len(of := tasks.get(reader.get_node().get_friendly_name(), [])) == 1:
                readers.setdefault(of[0], []).append(reader)
        if readers:
            called = f"{SHARED}/{len(handed)}"
            handed.append(_end(port, called))
        for task, own in readers.items():
            given, again = _beginning(port, called)
            inputs[task].append(given)
            for reader in own:
                reader.replace_source_output(again)
    made = {task: Model([results[task]], inputs[task], task) for task in results}
    return Parts(Model(handed, model.get_parameters(), SHARED), made)


def _end(port: Any, called: str) -> Any:
    """An output of the values of `port`: the codes of a quantizer, channels last, as they lie in a CPU's memory."""
    from openvino import opset13 as op

    value = port
    if (step := _step(port)) is not None:
        value = op.convert(op.fake_quantize(*port.get_node().input_values()[:3], LOW, HIGH, HIGH - LOW + 1), "i8")
    end = op.result(op.transpose(value, CHANNELS_LAST) if step is not None and len(port.get_shape()) == 4 else value)
    end.output(0).set_names({called})
    return end


def _beginning(port: Any, called: str) -> tuple[Any, Any]:
    """An input for that, and what gives the values of `port` again."""
    from openvino import Type
    from openvino import opset13 as op

    shape, step = list(port.get_shape()), _step(port)
    if step is None:
        given = value = op.parameter(shape, port.get_element_type(), name=called)
    else:
        image = len(shape) == 4
        given = op.parameter([shape[axis] for axis in CHANNELS_LAST] if image else shape, Type.i8, name=called)
        value = op.multiply(op.convert(given, "f32"), op.constant(step))
        value = op.transpose(value, CHANNELS_FIRST) if image else value
    given.output(0).set_names({called})
    return given, value.output(0)


def _step(port: Any) -> Any:
    """The scale of the quantizer that gives the values of `port`, if one does."""
    node = port.get_node()
    if node.get_type_name() != "FakeQuantize" or node.get_attributes()["levels"] != HIGH - LOW + 1:
        return None
    low, high = (node.input_value(bound).get_node() for bound in (3, 4))
    if not low.get_type_name() == high.get_type_name() == "Constant":
        return None
    step = (np.array(high.get_data()) / HIGH).astype(np.float32)
    return step if np.array_equal(step * np.float32(LOW), low.get_data()) else None


def _fix_sizes(model: Any) -> None:
    """Makes constants of sizes, which are those of a fixed frame, or else they would count as computed from it."""
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() == "ShapeOf" and node.get_input_partial_shape(0).is_static:
            size = opset13.constant(np.array(node.get_input_shape(0)), node.get_output_element_type(0))
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(size.output(0))


def _behind(model: Any) -> set[str]:
    """The names of what is computed from the frame."""
    found: set[str] = set()
    for node in model.get_ordered_ops():
        sources = (value.get_node().get_friendly_name() for value in node.input_values())
        if node.get_type_name() == "Parameter" or any(source in found for source in sources):
            found.add(node.get_friendly_name())
    return found


def _above(node: Any) -> set[str]:
    """The names of a node and all that it is computed from."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in found:
            found.add(node.get_friendly_name())
            waiting += [value.get_node() for value in node.input_values()]
    return found


class ApartSession(Session):
    """Maps of the tasks that are asked for, one frame at a time, in each thread that asks."""

    how: How = "executed"

    def __init__(self, parts: Parts, compile: Callable[[Any], Any], whole: Session) -> None:
        self.device, self.float32 = f"{whole.device} in parts", whole.float32
        self._shared = compile(parts.shared)
        self._tasks = {task: compile(model) for task, model in parts.tasks.items()}
        self._own = threading.local()  # requests hold the frame and the maps of one caller

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """The maps (h, w) or (3, h, w) of an RGB uint8 frame (H, W, 3) of the manifest's size."""
        return self.only(frame, self._tasks)

    def only(self, frame: np.ndarray, tasks: Collection[str]) -> dict[str, np.ndarray]:
        """These tasks' maps alone; nothing else is computed."""
        if not tasks:
            return {}
        shared, requests = self._requests()
        shared.infer([np.ascontiguousarray(frame)[None]], share_inputs=True, share_outputs=True)
        maps = {}
        for task in tasks:
            requests[task].infer()
            maps[task] = requests[task].get_output_tensor(0).data[0].copy()
        return maps

    def apart(self) -> Session:
        """Itself."""
        return self

    def _requests(self) -> tuple[Any, dict[str, Any]]:
        """This thread's; what the shared part gives lies where the tasks' parts read it."""
        if not hasattr(self._own, "requests"):
            shared = self._shared.create_infer_request()
            requests = {task: compiled.create_infer_request() for task, compiled in self._tasks.items()}
            for request in requests.values():
                for port in request.model_inputs:
                    request.set_tensor(port, shared.get_tensor(port.any_name))
            self._own.requests = shared, requests
        found: tuple[Any, dict[str, Any]] = self._own.requests
        return found
