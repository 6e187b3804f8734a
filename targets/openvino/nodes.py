"""The nodes of an OpenVINO model: those of a kind, their constants, what they read and who reads them."""

from typing import Any

CHANNELS_LAST, CHANNELS_FIRST = (
    [0, 2, 3, 1],
    [0, 3, 1, 2],
)  # orders of the axes of a map: there and back


def of_kind(model: Any, kind: str) -> list[Any]:
    """The model's nodes of this kind, in the order in which they run."""
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def constant(output: Any) -> Any:
    """The array of the constant that gives this output; None where something else does."""
    node = output.get_node()
    return node.get_data() if node.get_type_name() == "Constant" else None


def holds(output: Any, *numbers: int) -> bool:
    """Whether a constant of these numbers gives this output."""
    array = constant(output)
    return array is not None and array.ravel().tolist() == list(numbers)


def sources(node: Any) -> list[Any]:
    """The nodes that a node reads, one for each of its inputs."""
    return [value.get_node() for value in node.input_values()]


def readers(node: Any) -> list[Any]:
    """The nodes that read a node's outputs."""
    return [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]


def replace(old: Any, new: Any) -> None:
    """Has all readers of a node read this output instead."""
    for reader in old.output(0).get_target_inputs():
        reader.replace_source_output(new)


def supersede(old: Any, new: Any) -> None:
    """Puts a node in another one's place, under its name."""
    new.set_friendly_name(old.get_friendly_name())
    replace(old, new.output(0))
