"""The quantized tensors of a Core ML package, read from its protobuf and weight.bin."""

import json
from pathlib import Path
from typing import Any, Iterable

import numpy as np

from edgemtl.ground.errors import UsageError
from edgemtl.records import ledger
from edgemtl.records.ledger import Found
from edgemtl.targets.coreml import package

NAMES_KEY = "edgemtl.quantized"  # metadata: operation -> the ledger's name of what it quantizes
# The input of a weight's operation that holds its codes.
CODES_INPUTS = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}
QUANTIZES = ("dequantize", *CODES_INPUTS)
MOVES = {"cast", "expand_dims", "identity", "reshape", "squeeze", "transpose"}  # values stay as they are


def quantized(folder: Path) -> list[Found]:
    """One entry for each weight's operation, for each pair of quantize and dequantize, and for each output.

    An operation that the package's metadata does not name keeps its name. UsageError where the package is broken.
    """
    graph = _Graph(package.read(folder / package.FOLDER))
    entries = []
    for operation in graph.operations:
        if operation.type == "dequantize":
            entries.append(_activation(graph, operation))
        elif operation.type in CODES_INPUTS:
            entries.append(_weight(graph, operation))
        elif operation.type == "quantize":
            after = {reader.type for reader in graph.readers.get(operation.outputs[0].name, [])}
            if after != {"dequantize"}:
                problem = f"quantize is followed by {', '.join(sorted(after)) or 'nothing'}, expected dequantize"
                own = graph.name(operation)
                entries.append(Found(own, "activation", 8, None, np.zeros((), np.float32), problem=problem))
    return [*entries, *(ledger.output(name, graph.above([name])) for name in graph.package.main.outputs)]


def activations(read: package.Package) -> dict[str, str]:
    """The ledger's name of each value that a dequantize gives."""
    graph = _Graph(read)
    back = [operation for operation in graph.operations if operation.type == "dequantize"]
    return {operation.outputs[0].name: graph.names.get(graph.name(operation), "") for operation in back}


class _Graph:
    """The package's operations, what each value is made by and who reads it."""

    def __init__(self, read: package.Package) -> None:
        self.package = read
        self.names: dict[str, str] = json.loads(read.metadata.get(NAMES_KEY, "{}"))  # the ledger's
        self.operations = list(read.main.operations)
        self.makers: dict[str, Any] = {}
        self.readers: dict[str, list[Any]] = {}
        for operation in self.operations:
            for output in operation.outputs:
                self.makers[output.name] = operation
            for value in self.read(operation):
                self.readers.setdefault(value, []).append(operation)

    def name(self, operation: Any) -> str:
        return str(self.package.constant(operation.attributes["name"]))

    def parameter(self, operation: Any, key: str) -> Any:
        """An operation's constant parameter, or None where it has none of that name."""
        if key in operation.attributes:
            return self.package.constant(operation.attributes[key], key)
        if key not in operation.inputs:
            return None
        binding = operation.inputs[key].arguments[0]
        if binding.WhichOneof("binding") == "value":
            return self.package.constant(binding.value, key)
        maker = self.makers.get(binding.name)
        if maker is None or maker.type != "const":
            raise UsageError(f"{self.package.path}: {key} of {self.name(operation)} is no constant")
        return self.package.constant(maker.attributes["val"], binding.name)

    def quantized(self, value: str) -> str | None:
        """The ledger's name of a value where a pair of quantize and dequantize or a weight's operation gives it."""
        maker = self.makers.get(value)
        if maker is None or maker.type not in QUANTIZES:
            return None
        return self.names.get(self.name(maker), self.name(maker))

    def above(self, values: Iterable[str]) -> tuple[str, ...]:
        """`ledger.sources` of values."""
        return ledger.sources(values, self.quantized, self._before)

    def _before(self, value: str) -> Iterable[str]:
        maker = self.makers.get(value)
        return self.read(maker) if maker is not None and maker.type != "shape" else ()

    def read(self, operation: Any) -> list[str]:
        """Names of the values that an operation reads."""
        return [
            binding.name for argument in operation.inputs.values() for binding in argument.arguments if binding.name
        ]

    def read_by(self, operation: Any) -> dict[str, Any]:
        """The operations that read its result by their names, those that only move values stepped over."""
        readers: dict[str, Any] = {}
        for reader in self.readers.get(operation.outputs[0].name, []):
            readers |= self.read_by(reader) if reader.type in MOVES else {self.name(reader): reader}
        return dict(sorted(readers.items()))


def _activation(graph: _Graph, back: Any) -> Found:
    name, readers = str(graph.quantized(back.outputs[0].name)), tuple(graph.read_by(back))
    scale, zero = (graph.parameter(back, key) for key in ("scale", "zero_point"))
    into = graph.makers.get(back.inputs["input"].arguments[0].name)
    problem = _wrong(scale, zero)
    if into is None or into.type != "quantize":
        problem = "no quantize before dequantize"
    elif not np.array_equal(graph.parameter(into, "scale"), scale):
        problem = f"scale {graph.parameter(into, 'scale')} in quantize, {scale} in dequantize"
    elif np.any(graph.parameter(into, "zero_point")):
        problem = f"zero point {graph.parameter(into, 'zero_point')} in quantize, expected 0"
    elif (kind := graph.parameter(into, "output_dtype")) != "int8":
        problem = f"codes {kind}, expected int8"
    axis = graph.parameter(back, "axis") if np.ndim(scale) else None
    scales = np.asarray(0 if scale is None else scale).astype(np.float32)
    value = back if into is None else into
    reads = graph.above(binding.name for binding in value.inputs["input"].arguments)
    return Found(name, "activation", 8, None if axis is None else int(axis), scales, None, readers, (reads,), problem)


def _weight(graph: _Graph, operation: Any) -> Found:
    name, layers = str(graph.quantized(operation.outputs[0].name)), graph.read_by(operation)
    scale, codes = (graph.parameter(operation, key) for key in ("scale", CODES_INPUTS[operation.type]))
    zero = graph.parameter(operation, "zero_point" if operation.type == "constexpr_affine_dequantize" else "offset")
    codes = np.asarray(codes)
    shift = 128 if codes.dtype == np.uint8 else 0
    problem = _wrong(scale, np.asarray(0 if zero is None else zero).astype(np.int64) - shift)
    if codes.dtype not in (np.int8, np.uint8):
        problem = f"codes {codes.dtype}, expected int8 or uint8"
    else:
        codes = (codes.astype(np.int16) - shift).astype(np.int8)
    axis = _channels(codes.shape, np.shape(scale), graph.parameter(operation, "axis"))
    scales = np.asarray(0 if scale is None else scale).astype(np.float32).reshape(() if axis is None else -1)
    above = (graph.above(graph.read(layer)) for layer in layers.values())
    reads = tuple(tuple(other for other in names if other != name) for names in above)
    return Found(name, "weight", 8, axis, scales, codes, tuple(layers), reads, problem)


def _wrong(scale: Any, zero: Any) -> str | None:
    """What is no symmetric quantization; the zero point is that of codes shifted back."""
    if np.asarray(scale).dtype not in (np.float16, np.float32):
        return f"scale {scale}, expected float16 or float32"
    return f"zero point {np.ravel(zero)[np.flatnonzero(zero)[0]]}, expected 0" if np.any(zero) else None


def _channels(codes: tuple[int, ...], scale: tuple[int, ...], axis: Any) -> int | None:
    """The axis with a scale for each index: as stated, else where a scale of the codes' rank has more than one entry.

    Of a single scale that is the first axis with a single index, for instance of a convolution with one output.
    """
    if axis is not None:
        return int(axis) if scale else None
    axes = [i for i, n in enumerate(scale) if n > 1] or [i for i, n in enumerate(codes) if n == 1]
    return axes[0] if axes else None
