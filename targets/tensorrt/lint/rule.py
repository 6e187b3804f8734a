"""What a rule of the lint is."""

from typing import Callable, Iterable, Iterator, NamedTuple

from onnx import NodeProto

from edgemtl.targets.tensorrt.graph import Graph, attributes, readable_name

Version = tuple[int, ...]
Finding = tuple[str, str]  # which node or tensor, and what about it


class Rule(NamedTuple):
    """One thing to look for; several rules share a code where versions differ in what it does."""

    code: str
    severity: str  # of lint.SEVERITIES
    find: Callable[..., Iterator[Finding]]  # of a Graph and a Version
    source: str  # public
    since: Version = (0,)
    until: Version = (1000,)  # the first version it does not hold for


def nodes(
    kinds: str | tuple[str, ...],
    text: str | Callable[[Graph, NodeProto], str | None],
    when: Callable[[Graph, NodeProto], bool] = lambda graph, node: True,
) -> Callable[[Graph, Version], Iterator[Finding]]:
    """Finds the nodes of these operators for which `when` holds; {kind} and attributes in the text are the node's.

    A function in the text's place gives what is to be said of a node, if anything is.
    """

    def find(graph: Graph, version: Version) -> Iterator[Finding]:
        for node in graph.of(*((kinds,) if isinstance(kinds, str) else kinds)):
            if not when(graph, node):
                continue
            if said := text(graph, node) if callable(text) else text.format(kind=node.op_type, **attributes(node)):
                yield readable_name(node), said

    return find


def tensors(
    which: Callable[[Graph], Iterable[str]], text: Callable[[Graph, str], str | None]
) -> Callable[[Graph, Version], Iterator[Finding]]:
    """Finds those of a graph's tensors of which the function has something to say."""

    def find(graph: Graph, version: Version) -> Iterator[Finding]:
        yield from ((tensor, said) for tensor in which(graph) if (said := text(graph, tensor)))

    return find
