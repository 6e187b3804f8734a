"""What bilinear sampling gives, for the proof, where its positions are codes: whole fractions of a pixel."""

from typing import Any, Iterable

import numpy as np
import torch
from torch import fx

from edgemtl.quantization import quantizers
from edgemtl.quantization.lattice import Value
from edgemtl.records.ledger import reached

STEPS = {"permute", "flatten", "reshape", "view", "unflatten"}


def positions(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that compute sampling's positions, after the codes of offsets."""

    def before(nodes: Iterable[Any]) -> list[fx.Node]:
        return [node for node in nodes if isinstance(node, fx.Node) and not quantizers.quantizes(node)]

    grids = [node.args[1] for node in graph.nodes if quantizers.called(node) == "grid_sampler"]
    return set(reached(before(grids), lambda node: before(node.all_input_nodes)))


def sample(
    at: dict[fx.Node, Any], node: fx.Node, x: Any, grid: Any, mode: int = 0, padding: int = 0, corners: bool = False
) -> Value | str:
    """Bilinear, zeros outside: multiples of unit / n**2 at positions of whole n-ths of a pixel.

    A rule as those in rules.py, which also reads from `at` what the nodes before it give.
    """
    if not isinstance(x, Value) or not x.on_grid:
        return "reads what is not exact"
    if (mode, padding, corners) != (0, 0, False):
        return "sampling otherwise than bilinear, with zeros outside"
    height, width = node.args[0].meta["val"].shape[2:]  # type: ignore[union-attr]
    part = _part(at, node.args[1], height, width)
    if isinstance(part, str):
        return part
    low, high = np.minimum(x.low, 0), np.maximum(x.high, 0)
    # Of a position: its base, its product and their sum are rounded, a runtime adds 1, multiplies, subtracts 1.
    lost = 3.5 * 2.0**-24 * (height + width)
    error = float((high - low).max()) * (lost + 16 * 2.0**-24)
    islands = x.islands | (grid.islands if isinstance(grid, Value) else frozenset())
    return Value(np.asarray(np.min(x.unit) * part**2), np.asarray(low.min()), np.asarray(high.max()), error=error,
                 islands=islands)  # fmt: skip


def _part(at: dict[fx.Node, Any], grid: Any, height: int, width: int) -> float | str:
    """The part of a pixel that all positions are multiples of: codes, scaled, added to constants."""
    added = _before(grid)
    if quantizers.called(added) != "add" or quantizers.called(_before(added.args[0])) != "mul":
        return "positions are no sum of scaled codes and constants"
    scaled, base = _before(added.args[0]), added.args[1]
    offset, unit, constant = (at.get(_before(node)) for node in (*scaled.args, base))
    if not isinstance(offset, Value) or not offset.exact:
        return "offsets are not exact"
    if not isinstance(constant, torch.Tensor) or not isinstance(unit, torch.Tensor):
        return "positions are no sum of scaled codes and constants"
    part = float(np.min(offset.unit))
    sizes = np.array([width, height], np.float64)
    pixels = ((constant.double().numpy().reshape(-1, 2, height, width) + 1) * sizes[:, None, None] - 1) / 2
    if not np.array_equal(unit.float().ravel().numpy(), np.float32(2 / sizes)):
        return "offsets are scaled otherwise than by the map's size"
    if np.abs(pixels / part - np.round(pixels / part)).max() * part > 2.0**-22 * max(height, width):
        return "positions are no whole fractions of a pixel"
    return part


def _before(node: Any) -> Any:
    """The node whose values this one only lays out otherwise."""
    while isinstance(node, fx.Node) and quantizers.called(node) in STEPS:
        node = node.args[0]
    return node
