"""OpenVINO IR that holds sampling positions as small tables and the operations that spread them.

A device computes them once, when it compiles the model.
"""

from typing import Any

from edgemtl.networks import positions
from edgemtl.targets.openvino.nodes import of_kind, readers, supersede


def spread_when_compiled(model: Any) -> None:
    """Replaces every constant of positions that a map is added to, turned or not, in place."""
    from openvino import opset13 as op

    for node in of_kind(model, "Constant"):
        if not all(reader.get_type_name() in ("Add", "Transpose") for reader in readers(node)):
            continue
        tables = positions.exact_tables(node.get_data())
        if tables is None:
            continue
        height, width = tables[0].shape[2], tables[1].shape[3]
        parts = [
            op.gather(op.constant(table), op.constant(positions.picked(length)), op.constant(axis))
            for table, length, axis in zip(tables, (width, height), (3, 2))
            if len(table)
        ]
        beside = op.concat(parts, 0) if len(parts) > 1 else parts[0]
        pixels = op.add(beside, op.constant(positions.own(height, width)))
        spread = op.divide(pixels, op.constant(positions.sizes(height, width)))
        supersede(node, spread)
