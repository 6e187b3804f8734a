"""A Core ML program evaluated on any machine: the operations of a saved package, one after the other, in torch.

It reads only the package, its protobuf and weight.bin, and computes what Apple's documentation of the operations says
(see `operators`). So it checks the graph, the stored weights and the arithmetic that the program declares. It cannot
tell how a phone's kernels round, or on which unit they run.
"""

import inspect
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np
import torch

from edgemtl.ground.errors import UsageError, unknown
from edgemtl.targets.coreml import package
from edgemtl.targets.coreml.operators import OPERATORS

# Of MIL.proto. Every float travels as float32, and is rounded where the program declares float16.
TYPE_NAMES = {
    1: "bool", 2: "str", 10: "fp16", 11: "fp32", 21: "int8", 22: "int16", 23: "int32", 31: "uint8", 32: "uint16",
    33: "uint32",
}  # fmt: skip
CARRIERS = {
    "bool": torch.bool, "fp16": torch.float32, "fp32": torch.float32, "int8": torch.int8, "int16": torch.int32,
    "int32": torch.int32, "uint8": torch.uint8, "uint16": torch.int32, "uint32": torch.int64,
}  # fmt: skip
FLOATS = ("fp16", "fp32")
RGB = 20  # of ImageFeatureType.ColorSpace in FeatureTypes.proto
ARRAYS = {65552: "fp16", 65568: "fp32", 131104: "int32"}  # ArrayFeatureType.ArrayDataType there
TYPES = ("declared", "float32")
LETTERS = ("F", "G", "T", "U")  # type variables in the operators' annotations

# What a parameter that is no tensor takes: the types of the constants that fit, and their rank.
PYTHON: dict[str, tuple[tuple[str, ...], int]] = {
    "int": (("int8", "int16", "int32", "uint8", "uint16", "uint32"), 0),
    "float": (("fp16", "fp32", "int32"), 0),
    "bool": (("bool",), 0),
    "str": (("str",), 0),
    "Ints": (("int8", "int16", "int32", "uint8", "uint16", "uint32"), 1),
    "Bools": (("bool",), 1),
}


class Type(NamedTuple):
    """A tensor's declared type."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass
class Step:
    """One operation, with its constant arguments in place."""

    kind: str
    name: str
    compute: Callable[..., Any]
    outputs: list[tuple[str, Type]]
    constants: dict[str, Any]
    tensors: dict[str, str | list[str]]  # parameter -> the tensors that are known only when the program runs
    exact: bool
    last: list[str] = field(default_factory=list)  # tensors that nothing needs afterwards

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Program:
    """A package's function `main`, ready to run.

    With `types` "declared" every result is rounded to the type that the program declares for it, as on a device that
    adds up in float32. With "float32" nothing is rounded to float16, so that only the graph and the weights are
    checked. UsageError, with the operation's name, for anything in the package that is unknown here or does not fit.
    """

    def __init__(self, path: Path, types: str = "declared") -> None:
        if types not in TYPES:
            raise unknown("arithmetic of the Core ML evaluator", types, TYPES)
        self.path, self.types = path, types
        self.overflows: dict[str, int] = {}  # operation -> how many values became infinite in the worst frame
        self.package = package.read(path)
        block = self.package.main
        declared = self.package.model.mlProgram.functions["main"].inputs
        self.inputs = {value.name: self._type(value.type, value.name) for value in declared}
        self.outputs = list(block.outputs)
        self._types: dict[str, Type] = dict(self.inputs)
        self._constants: dict[str, Any] = {}
        self._steps: list[Step] = []
        with torch.inference_mode():
            for operation in block.operations:
                self._add(operation)
        for name in self.outputs:
            if name not in self._types:
                raise UsageError(f"{path}: nothing makes the output {name}")
        self._release()

    @property
    def float32(self) -> bool:
        """Whether it computes in float32: by `types`, or because no operation declares float16."""
        return self.types == "float32" or all(t.dtype != "fp16" for step in self._steps for _, t in step.outputs)

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Every output of the program, by name, for arrays of the inputs' declared types and shapes."""
        return {name: value for name, value in self.tensors(**inputs) if name in self.outputs}

    def tensors(self, **inputs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The results of all operations that depend on the inputs, by name, in the order in which they are computed."""
        values = dict(self._constants)
        for name, declared in self.inputs.items():
            values[name] = self._input(inputs, name, declared)
        for step in self._steps:
            with torch.inference_mode():
                self._run(step, values)
            for name, _ in step.outputs:
                yield name, values[name].numpy()
            for name in step.last:
                del values[name]
        for name in self.outputs:
            if name in self._constants or name in self.inputs:
                yield name, values[name].numpy()

    def declared(self, name: str) -> Type:
        """The declared type of any tensor of the program."""
        return self._types[name]

    def image(self, height: int, width: int) -> str:
        """The name of the program's one input, once it is known to be an RGB image of this size.

        UsageError if it is not, or if the package describes other outputs than the program has.
        """
        described = self.package.model.description
        for output in described.output:
            self._describes(output)
        if missing := set(self.outputs) - {output.name for output in described.output}:
            raise UsageError(f"{self.path}: the output {min(missing)} is not described")
        if len(self.inputs) != 1 or [value.name for value in described.input] != list(self.inputs):
            raise UsageError(f"{self.path}: the inputs are {', '.join(self.inputs)}, expected one image")
        [(name, declared)] = self.inputs.items()
        image = described.input[0].type.imageType
        if image.colorSpace != RGB or (image.height, image.width) != (height, width):
            raise UsageError(f"{self.path}: the input {name} is no RGB image of {height}x{width}")
        if declared != Type("fp32", (1, 3, height, width)):
            raise UsageError(f"{self.path}: the input {name} is {declared}, expected fp32 {[1, 3, height, width]}")
        return name

    def _describes(self, feature: Any) -> None:
        array = feature.type.multiArrayType
        if feature.name not in self.outputs:
            raise UsageError(f"{self.path}: the output {feature.name} is described, but the program does not give it")
        stated = Type(ARRAYS.get(array.dataType, str(array.dataType)), tuple(array.shape))
        if stated != self._types[feature.name]:
            raise UsageError(f"{self.path}: {feature.name} is described as {stated}, it is {self._types[feature.name]}")

    # ---- reading

    def _type(self, value_type: Any, name: str) -> Type:
        if value_type.WhichOneof("type") != "tensorType":
            raise UsageError(f"{self.path}: {name} is a {value_type.WhichOneof('type')}, not a tensor")
        tensor = value_type.tensorType
        if any(d.WhichOneof("dimension") != "constant" for d in tensor.dimensions):
            raise UsageError(f"{self.path}: {name} has no fixed shape")
        if tensor.dataType not in TYPE_NAMES or tensor.rank != len(tensor.dimensions):
            raise UsageError(f"{self.path}: {name} has the data type {tensor.dataType} and rank {tensor.rank}")
        return Type(TYPE_NAMES[tensor.dataType], tuple(d.constant.size for d in tensor.dimensions))

    def _add(self, operation: Any) -> None:
        """Adds one operation: computes it at once if all its inputs are constant, else keeps it as a step."""
        name = operation.outputs[0].name if operation.outputs else "without outputs"
        label = f"{self.path}: {operation.type} {name}"
        outputs = [(value.name, self._type(value.type, value.name)) for value in operation.outputs]
        for output, _ in outputs:
            if output in self._types:
                raise UsageError(f"{label}: there is a {output} already")
        if operation.type == "const":
            constant = self.package.constant(operation.attributes["val"], name)
            stored = self._type(operation.attributes["val"].type, name)
            if stored != outputs[0][1]:
                raise UsageError(f"{label}: declared as {outputs[0][1]}, but the value is {stored}")
            self._types[name], self._constants[name] = stored, _tensor(constant, stored.dtype)
            return
        if operation.type not in OPERATORS:
            raise UsageError(f"{label}: the operation {operation.type} is not known to the evaluator")
        if operation.blocks:
            raise UsageError(f"{label}: it has inner blocks, which the evaluator does not know")
        step = self._bind(operation, outputs, label)
        if step.tensors:
            self._steps.append(step)
        else:
            self._run(step, self._constants)
        self._types |= dict(outputs)

    def _bind(self, operation: Any, outputs: list[tuple[str, Type]], label: str) -> Step:
        """The step of an operation, once its arguments' names, types and ranks are those of the documentation."""
        compute = OPERATORS[operation.type]
        signature = _signature(compute)
        parameters = signature.parameters
        letters: dict[str, tuple[str, str]] = {}  # -> the dtype it stands for, and where that was seen first
        constants: dict[str, Any] = {}
        tensors: dict[str, str | list[str]] = {}
        arguments = self._arguments(operation, label)
        for key, names in arguments.items():
            if key not in parameters:
                raise UsageError(f"{label}: the input {key} is not known")
            kind = parameters[key].annotation.removesuffix(" | None")
            dtypes = {self._types[n].dtype for n in names}
            if key == "values":
                pass
            elif len(names) != 1:
                raise UsageError(f"{label}: {key} takes one tensor, not {len(names)}")
            for dtype in sorted(dtypes) if kind in LETTERS else ():
                first, where = letters.setdefault(kind, (dtype, key))
                if dtype != first:
                    raise UsageError(f"{label}: {key} is {dtype}, {where} is {first}; they must be the same")
                if kind in "FG" and dtype not in FLOATS:
                    raise UsageError(f"{label}: {key} is {dtype}, which is no float")
            if kind in PYTHON:
                dtypes_of_kind, rank = PYTHON[kind]
                [constant] = (self._types[n] for n in names)
                if constant.dtype not in dtypes_of_kind or len(constant.shape) != rank:
                    raise UsageError(f"{label}: {key} is {constant}, expected {kind}")
                if names[0] not in self._constants:
                    raise UsageError(f"{label}: {key} is not constant")
                constants[key] = _python(self._constants[names[0]])
            elif all(n in self._constants for n in names):
                values = [self._constants[n] for n in names]
                constants[key] = values if key == "values" else values[0]
            else:
                tensors[key] = names if key == "values" else names[0]
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in arguments:
                raise UsageError(f"{label}: the input {key} is missing")
        result = getattr(compute, "gives", None)
        if result is None:
            result = letters[signature.return_annotation][0]
        elif result in parameters:
            result = constants.get(result, parameters[result].default)
        for output, declared in outputs:
            if declared.dtype != result:
                raise UsageError(f"{label}: {output} is declared as {declared.dtype}, but it is {result}")
        exact = getattr(compute, "exact", False)
        return Step(operation.type, outputs[0][0], compute, outputs, constants, tensors, exact)

    def _arguments(self, operation: Any, label: str) -> dict[str, list[str]]:
        """The names of the tensors that an operation takes for each parameter."""
        arguments: dict[str, list[str]] = {}
        for key, argument in sorted(operation.inputs.items()):  # a map without an order of its own
            names = arguments[key] = []
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "value":
                    names.append(self._unnamed(binding.value, f"{label}: {key}"))
                elif binding.name in self._types:
                    names.append(str(binding.name))
                else:
                    raise UsageError(f"{label}: {key} is {binding.name}, which nothing before it makes")
        for key, value in operation.attributes.items():  # where the constexpr operations of iOS 16 keep theirs
            if key in arguments:
                raise UsageError(f"{label}: {key} is there twice")
            if key != "name":
                arguments[key] = [self._unnamed(value, f"{label}: {key}")]
        return arguments

    def _unnamed(self, value: Any, label: str) -> str:
        """A name for a value that stands in place of one."""
        name = f" {len(self._types)}"
        self._types[name] = self._type(value.type, label)
        self._constants[name] = _tensor(self.package.constant(value, label), self._types[name].dtype)
        return name

    def _release(self) -> None:
        """Notes after which step each tensor may go, and forgets constants that no step needs."""
        needed = set(self.outputs)
        for step in reversed(self._steps):
            used = [n for names in step.tensors.values() for n in ([names] if isinstance(names, str) else names)]
            outputs = [name for name, _ in step.outputs]
            step.last = [n for n in dict.fromkeys(used + outputs) if n not in needed]
            needed.update(used)
        self._constants = {name: value for name, value in self._constants.items() if name in needed}

    # ---- running

    def _input(self, inputs: dict[str, np.ndarray], name: str, declared: Type) -> torch.Tensor:
        if name not in inputs:
            raise UsageError(f"{self.path}: the input {name} is missing")
        array = torch.from_numpy(np.ascontiguousarray(inputs[name]))
        if tuple(array.shape) != declared.shape:
            raise UsageError(f"{self.path}: the input {name} has shape {list(array.shape)}, declared is {declared}")
        return array.to(CARRIERS[declared.dtype])

    def _run(self, step: Step, values: dict[str, Any]) -> None:
        """Computes a step; its results, checked and rounded, are added to `values`."""
        arguments = {
            key: values[name] if isinstance(name, str) else [values[n] for n in name]
            for key, name in step.tensors.items()
        }
        try:
            answer = step.compute(**step.constants, **arguments)
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            raise UsageError(f"{self.path}: {step}: {str(error).splitlines()[0]}") from None
        results = [answer] if isinstance(answer, torch.Tensor) else list(answer)
        if len(results) != len(step.outputs):
            raise UsageError(f"{self.path}: {step}: {len(step.outputs)} outputs are declared, there are {len(results)}")
        for result, (name, declared) in zip(results, step.outputs):
            if tuple(result.shape) != declared.shape or result.dtype != CARRIERS[declared.dtype]:
                description = f"{str(result.dtype).removeprefix('torch.')} {list(result.shape)}"
                raise UsageError(f"{self.path}: {step}: {name} is declared as {declared}, but it is {description}")
            values[name] = result if step.exact else self._rounded(step, result, declared, arguments)

    def _rounded(self, step: Step, result: torch.Tensor, declared: Type, arguments: dict[str, Any]) -> torch.Tensor:
        """A result as its declared type holds it; whatever overflows is counted and stays infinite."""
        if declared.dtype not in FLOATS:
            return result
        rounded = result.half().float() if (declared.dtype, self.types) == ("fp16", "declared") else result
        if not torch.isfinite(rounded.sum()):  # a sum is much faster than looking at each value
            tensors = [t for v in arguments.values() for t in (v if isinstance(v, list) else [v])]
            sound = all(bool(torch.isfinite(t).all()) for t in tensors)
            lost = ~torch.isfinite(rounded) if sound else torch.isfinite(result) & ~torch.isfinite(rounded)
            if count := int(lost.sum()):
                self.overflows[str(step)] = max(count, self.overflows.get(str(step), 0))
        return rounded


@cache
def _signature(compute: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(compute)


def _tensor(value: Any, dtype: str) -> Any:
    """A constant as torch holds it; texts stay texts."""
    return value if dtype == "str" else torch.from_numpy(np.array(value)).to(CARRIERS[dtype])


def _python(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value
