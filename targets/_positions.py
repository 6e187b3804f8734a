"""ONNX files hold sampling positions as small tables and the operations that spread them.

Exporters and onnxsim compute all that is constant, and then 128 groups on 107x140 pixels are 15 MB for each task. What
runs the file computes them as well, once, when it loads it: the same bits, since the sums are exact and a quotient is
rounded in one way only.
"""

from typing import Any


def spread_when_loaded(model: Any) -> None:
    """Replaces every constant of positions that a map is added to, in place."""
    from onnx import helper, numpy_helper

    from edgemtl.networks import positions  # which a device does not have: it converts nothing

    graph = model.graph
    stored = {value.name: value for value in graph.initializer}
    stored |= {
        node.output[0]: node.attribute[0].t for node in graph.node if [a.name for a in node.attribute] == ["value"]
    }
    shared: dict[str, Any] = {}  # constants that several positions have in common, by their names
    nodes: list[Any] = []
    for node in graph.node:
        name = next((value for value in node.input if value in stored), "") if node.op_type == "Add" else ""
        tables = positions.exact_tables(numpy_helper.to_array(stored.pop(name))) if name else None
        if tables is not None:
            rows, columns = tables
            height, width = rows.shape[2], columns.shape[3]
            size = f"{height}x{width}"
            constants = {
                f"{name}/rows": rows, f"{name}/columns": columns, f"columns/{width}": positions.picked(width),
                f"rows/{height}": positions.picked(height), f"pixels/{size}": positions.own(height, width),
                f"sizes/{size}": positions.sizes(height, width),
            }  # fmt: skip
            shared |= {key: numpy_helper.from_array(value, key) for key, value in constants.items()}
            steps: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
                ("Gather", [f"{name}/rows", f"columns/{width}"], f"{name}/by_row", {"axis": 3}),
                ("Gather", [f"{name}/columns", f"rows/{height}"], f"{name}/by_column", {"axis": 2}),
                ("Concat", [f"{name}/by_row", f"{name}/by_column"], f"{name}/beside", {"axis": 0}),
                ("Add", [f"{name}/beside", f"pixels/{size}"], f"{name}/pixels", {}),
                ("Div", [f"{name}/pixels", f"sizes/{size}"], name, {}),
            )  # fmt: skip
            for kind, inputs, output, more in steps:
                called = node.name + (output.removeprefix(name) or "/places")
                nodes.append(helper.make_node(kind, inputs, [output], called, **more))
        nodes.append(node)
    spread = {value for node in nodes if node.op_type != "Constant" for value in node.output}
    nodes = [node for node in nodes if node.op_type != "Constant" or node.output[0] not in spread]
    kept = [value for value in graph.initializer if value.name not in spread]
    kept = [type(value).FromString(value.SerializeToString()) for value in (*kept, *shared.values())]
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
