"""OpenVINO: faster forms of the deformable operator, and the choice among them.

A network in deployment form samples like this, and the passes look for just that:

    features of the offset network -> convolution -> G grids + positions -> transpose -> GridSample -> 1x1 convolution

`lower` picks a form for each operator from times measured by tests/benchmarks/deformable.py, kept in deformable.json.
In the exact form, where offsets are codes, large grids are always made and read by parts.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgemtl.targets.openvino.nodes import CHANNELS_LAST, constant, holds, of_kind, readers, supersede

TIMES = Path(__file__).with_suffix(".json")
CLEARLY = 0.9  # of GridSample's time: what another form must stay below to be taken
PART = 2 << 20  # bytes of one part's grids: writing, transposing and reading them then stays in a core's cache


class Operator(NamedTuple):
    """The nodes of one deformable operator, one image, one tap."""

    sample: Any  # GridSample
    positions: np.ndarray  # (1, 2, h, w), where nothing is offset
    layer: Any  # the offset network's last convolution, (1, 2 * G, h, w), x and y alternating, before its bias
    weight: np.ndarray  # of `layer`, (its groups, outputs of a group, inputs of a group, kh, kw)
    bias: np.ndarray  # (2 * G,)
    data: Any  # output (G, C / G, H, W)
    readers: list[Any]  # 1x1 convolutions of what was read, where nothing else reads it and nothing is between

    @property
    def groups(self) -> int:
        return len(self.bias) // 2

    @property
    def channels(self) -> int:
        _, channels, _, _ = self.data.get_shape()
        return self.groups * int(channels)


def lower(model: Any) -> dict[str, int]:
    """Gives each deformable operator of the model, in place, its fastest form; counts the operators by form."""
    counts: dict[str, int] = {}
    for operator in operators(model):
        height, width = operator.positions.shape[2:]
        form = fastest("openvino", operator.channels, height, width, operator.groups)
        done = {"split": split, "native": sample_natively}[form](operator) if form != "grid-sample" else True
        form = form if done else "grid-sample"
        counts[form] = counts.get(form, 0) + 1
    for exact in of_codes(model):
        form = "split" if split_codes(exact) else "grid-sample"
        counts[form] = counts.get(form, 0) + 1
    return counts


def fastest(target: str, channels: int, height: int, width: int, groups: int) -> str:
    """The form that was clearly the fastest for the most similar operator measured; "grid-sample" where none was."""
    rows = [row for row in json.loads(TIMES.read_text(encoding="utf-8"))["rows"] if row["target"] == target]

    def apart(row: dict[str, Any]) -> float:
        pairs = ((channels, row["channels"]), (height * width, row["height"] * row["width"]), (groups, row["groups"]))
        return sum(abs(math.log(ours / theirs)) for ours, theirs in pairs)

    for row in sorted(rows, key=apart)[:1]:
        times: dict[str, float] = row["milliseconds"]
        form = min(times, key=lambda name: times[name])
        if times[form] < CLEARLY * times["grid-sample"]:
            return form
    return "grid-sample"


def split(operator: Operator) -> bool:
    """GridSample by parts of the offset groups, whose grids then stay in the cache; False where one part is enough.

    The numbers stay the same, because groups do not depend on each other.
    """
    from openvino import opset13 as op

    layers, height, width = len(operator.weight), *operator.positions.shape[2:]
    parts = _parts(operator.groups, layers, operator.groups * height * width * 8)
    if parts == 1:
        return False
    learned = op.split(operator.layer.input_value(0), op.constant(1), layers).outputs()
    maps = op.split(operator.data, op.constant(0), parts).outputs()
    weights = operator.weight.reshape(parts, -1, *operator.weight.shape[2:])
    biases = operator.bias.reshape(parts, 1, -1, 1, 1)
    how = operator.layer.get_attributes()
    placed = op.constant(operator.positions)
    read = []
    for part in range(parts):
        layer = op.convolution(
            learned[part * layers // parts], op.constant(weights[part]),
            how["strides"], how["pads_begin"], how["pads_end"], how["dilations"],
        )  # fmt: skip
        offsets = op.add(layer, op.constant(biases[part]))
        pairs = op.reshape(offsets, op.constant([operator.groups // parts, 2, height, width]), False)
        grid = op.transpose(op.add(pairs, placed), op.constant(CHANNELS_LAST))
        read.append(op.grid_sample(maps[part], grid, operator.sample.get_attributes()))
    supersede(operator.sample, op.concat(read, 0))
    return True


class OfCodes(NamedTuple):
    """The nodes of one deformable operator of the exact form: its offsets are codes, which are scaled and moved."""

    sample: Any  # GridSample
    pairs: Any  # output (G, 2, h, w) of codes
    steps: list[tuple[str, np.ndarray]]  # Multiply and Add with constants of four axes, in their order
    data: Any  # output (G, C / G, H, W)


def of_codes(model: Any) -> list[OfCodes]:
    """Every such operator of a model, for one image."""
    operators = []
    for sample in of_kind(model, "GridSample"):
        turned = sample.input_value(1).get_node()
        if turned.get_type_name() != "Transpose":
            continue
        steps: list[tuple[str, np.ndarray]] = []
        node = turned.input_value(0).get_node()
        while node.get_type_name() in ("Multiply", "Add"):
            numbers = constant(node.input_value(1))
            if numbers is None or numbers.ndim != 4:
                break
            steps.insert(0, (node.get_type_name(), numbers))
            node = node.input_value(0).get_node()
        rounds = node.get_type_name() == "Reshape" and node.input_value(0).get_node().get_type_name() == "FakeQuantize"
        turns = holds(turned.input_value(1), 0, 2, 3, 1)
        if rounds and turns and len(node.get_output_shape(0)) == 4 and node.get_output_shape(0)[1] == 2:
            operators.append(OfCodes(sample, node.output(0), steps, sample.input_value(0)))
    return operators


def split_codes(operator: OfCodes) -> bool:
    """What `split` does, of codes that one layer has made; False where one part is enough.

    A code is a quarter of a number of a grid. So it is codes that are turned, in pairs, from the order in which layers
    have channels to the one of grids, and what follows reads and writes in that order.
    """
    from openvino import opset13 as op

    groups, _, height, width = operator.pairs.get_shape()
    parts = _parts(groups, 1, groups * height * width * 8)
    if parts == 1:
        return False
    by_pixel = op.transpose(operator.pairs.get_node().input_value(0), op.constant(CHANNELS_LAST))
    turned = op.transpose(op.reshape(by_pixel, op.constant([height * width, groups, 2]), False), op.constant([1, 0, 2]))
    pairs = op.reshape(turned, op.constant([groups, height, width, 2]), False)
    read = []
    maps, grids = (op.split(x, op.constant(0), parts).outputs() for x in (operator.data, pairs))
    for part, (map, grid) in enumerate(zip(maps, grids, strict=True)):
        for kind, numbers in operator.steps:
            own = numbers if len(numbers) == 1 else np.split(numbers, parts)[part]
            # A device turns constants once; positions stay in the order in which their tables are found.
            number = op.transpose(op.constant(np.ascontiguousarray(own)), op.constant(CHANNELS_LAST))
            grid = (op.multiply if kind == "Multiply" else op.add)(grid, number)
        read.append(op.grid_sample(map, grid, operator.sample.get_attributes()))
    supersede(operator.sample, op.concat(read, 0))
    return True


def sample_natively(operator: Operator) -> bool:
    """One DeformableConvolution-8 for the sampling and the 1x1 convolution after it; False where that is not possible.

    Its weights and what it reads are float, so an int8 convolution stays behind a GridSample.
    """
    from openvino import opset13 as op

    if not operator.readers or operator.data.get_node().get_type_name() != "Reshape":
        return False
    height, width = operator.positions.shape[2:]
    pixels = np.tile([height / 2, width / 2], operator.groups)  # of a unit of the grid, for row and column
    order = np.arange(2 * operator.groups).reshape(-1, 2)[:, ::-1].ravel()
    flat = operator.weight.reshape(-1, *operator.weight.shape[2:])
    weight = (flat[order].astype(np.float64) * pixels[:, None, None, None]).astype(np.float32)
    bias = (operator.bias[order].astype(np.float64) * pixels).astype(np.float32)
    how = operator.layer.get_attributes()
    layer = op.group_convolution(
        operator.layer.input_value(0), op.constant(weight.reshape(operator.weight.shape)),
        how["strides"], how["pads_begin"], how["pads_end"], how["dilations"],
    )  # fmt: skip
    offset = op.add(layer, op.constant(bias.reshape(1, -1, 1, 1)))
    source = operator.data.get_node().input_value(0)
    for reader in operator.readers:
        supersede(reader, native(source, offset, reader.input_value(1), offset_groups=operator.groups))
    return True


def native(
    data: Any,
    offset: Any,
    weight: Any,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    mask: Any = None,
    groups: int = 1,
    offset_groups: int = 1,
) -> Any:
    """DeformableConvolution-8 with torchvision's arguments, without the bias: a node (B, O, h, w).

    Its last argument pads the bilinear interpolation with zeros; otherwise it repeats the map's border.
    """
    from openvino import opset8

    return opset8.deformable_convolution(
        data, offset, weight, list(stride), list(padding), list(padding), list(dilation), mask,
        "explicit", groups, offset_groups, True,
    )  # fmt: skip


def operators(model: Any) -> list[Operator]:
    """Every deformable operator of a model that has the form above, for one image."""
    found = map(_operator, of_kind(model, "GridSample"))
    return [operator for operator in found if operator is not None]


def _operator(sample: Any) -> Operator | None:
    turned = sample.input_value(1).get_node()
    if turned.get_type_name() != "Transpose" or not holds(turned.input_value(1), 0, 2, 3, 1):
        return None
    placed = turned.input_value(0).get_node()
    pairs, positions = _plus_constant(placed)
    if pairs is None or pairs.get_type_name() != "Reshape":
        return None
    layer, bias = _plus_constant(pairs.input_value(0).get_node())
    if layer is None or layer.get_type_name() != "GroupConvolution":
        return None
    weight, data = constant(layer.input_value(1)), sample.input_value(0)
    groups, two, height, width = pairs.get_output_shape(0)
    if (
        weight is None or two != 2 or data.get_shape()[0] != groups or positions.shape != (1, 2, height, width)
        or bias.size != 2 * groups or not np.allclose(positions, _positions(height, width), atol=1e-5)
    ):  # fmt: skip
        return None
    return Operator(sample, positions, layer, weight, bias.ravel(), data, _readers(sample))


def _positions(height: int, width: int) -> np.ndarray:
    """The centres of all pixels in grid_sample's coordinates, align_corners=False, (1, 2, height, width): x, y."""
    rows, columns = ((2 * np.arange(n) + 1) / n - 1 for n in (height, width))
    return np.stack(np.broadcast_arrays(columns[None], rows[:, None]))[None]


def _readers(sample: Any) -> list[Any]:
    joined = readers(sample)[0]
    after = readers(joined)
    pointwise = [r for r in after if r.get_type_name() == "Convolution" and list(r.get_input_shape(1))[2:] == [1, 1]]
    alone = len(readers(sample)) == 1 and joined.get_type_name() == "Reshape"
    plain = all(np.all(np.array(r.get_attributes()["strides"]) == 1) for r in pointwise)
    return pointwise if alone and plain and len(pointwise) == len(after) else []


def _plus_constant(node: Any) -> tuple[Any, np.ndarray]:
    """The node that a constant is added to, and the constant; None where this is no such sum."""
    if node.get_type_name() == "Add":
        for one, other in ((0, 1), (1, 0)):
            value = constant(node.input_value(other))
            if value is not None:
                return node.input_value(one).get_node(), value
    return None, np.empty(0)


def _parts(groups: int, layers: int, size: int) -> int:
    """How many parts of at most PART bytes: a divisor of the groups and a multiple of the layer's."""
    if size <= PART or groups % layers:
        return 1
    fitting = [n for n in range(layers, groups + 1, layers) if groups % n == 0]
    return next((n for n in fitting if size / n <= PART), groups)
