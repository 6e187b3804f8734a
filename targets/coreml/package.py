"""A Core ML package read from its bytes: the protobuf and weight.bin, with NumPy alone.

Importing coremltools imports torch where that is installed, so only its generated protobuf classes are loaded.
The formats are Apple's: MIL.proto and Model.proto (https://apple.github.io/coremltools/mlmodel/), and, for weight.bin,
StorageFormat.hpp of the coremltools repository.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgemtl.ground.errors import UsageError, needs

FOLDER = "model.mlpackage"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS_FILE = "Data/com.apple.CoreML/weights/weight.bin"

SCHEMA = "edgemtl_coremltools_proto"  # the name under which the classes are imported
SENTINEL = 0xDEADBEEF  # of a tensor's header in weight.bin
HEADER = np.dtype([("sentinel", "<u4"), ("type", "<u4"), ("bytes", "<u8"), ("offset", "<u8")])
# MIL.DataType's number -> NumPy's type, the blob's own number for it, and the field of an immediate value.
TYPES: dict[int, tuple[Any, int | None, str]] = {
    1: (np.bool_, None, "bools"),
    2: (np.str_, None, "strings"),
    10: (np.float16, 1, "bytes"),
    11: (np.float32, 2, "floats"),
    12: (np.float64, None, "doubles"),
    21: (np.int8, 4, "bytes"),
    22: (np.int16, 6, "ints"),
    23: (np.int32, 14, "ints"),
    31: (np.uint8, 3, "bytes"),
    32: (np.uint16, 7, "ints"),
    33: (np.uint32, 15, "bytes"),
}


def schema() -> ModuleType:
    """coremltools' generated module Model_pb2; UsageError where coremltools is not installed."""
    with needs("coreml"):
        spec = importlib.util.find_spec("coremltools")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'coremltools'", name="coremltools")
    holder = ModuleType(SCHEMA)
    holder.__path__ = [str(Path(spec.submodule_search_locations[0], "proto"))]
    sys.modules.setdefault(SCHEMA, holder)
    return importlib.import_module(f"{SCHEMA}.Model_pb2")


class Package:
    """The model of a .mlpackage folder."""

    def __init__(self, path: Path, model: Any, weights: np.ndarray) -> None:
        self.path = path
        self.model = model  # a Model of Model.proto
        self._weights = weights  # uint8 (N,)

    @property
    def main(self) -> Any:
        """The block of the function `main`, a message of MIL.proto."""
        function = self.model.mlProgram.functions["main"]
        return function.block_specializations[function.opset]

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.model.description.metadata.userDefined)

    def constant(self, value: Any, name: str = "a constant") -> Any:
        """What a Value holds: an array of its shape, a NumPy scalar, a bool or a text.

        UsageError, with `name`, where its bytes are not what its type says.
        """
        kind = value.type.WhichOneof("type")
        if kind != "tensorType":
            raise UsageError(f"{self.path}: {name} is a {kind}, not a tensor")
        shape = tuple(int(d.constant.size) for d in value.type.tensorType.dimensions)
        number = int(value.type.tensorType.dataType)
        if number not in TYPES:
            raise UsageError(f"{self.path}: {name} has the data type {number}; known: {', '.join(map(str, TYPES))}")
        dtype, stored, field = TYPES[number]
        if value.WhichOneof("value") == "blobFileValue":
            array = self._blob(value.blobFileValue, np.dtype(dtype), stored, shape, name)
        else:
            array = self._immediate(value.immediateValue.tensor, np.dtype(dtype), field, shape, name)
        if shape:
            return array
        return array.item() if dtype in (np.bool_, np.str_) else array[()]

    def _immediate(self, tensor: Any, dtype: np.dtype, field: str, shape: tuple[int, ...], name: str) -> np.ndarray:
        if (stored := tensor.WhichOneof("value")) != field:
            raise UsageError(f"{self.path}: {name} is declared as {dtype}, and stored as {stored}")
        values = getattr(tensor, field).values
        size = int(np.prod(shape))
        whole = len(values) == size * dtype.itemsize if field == "bytes" else len(values) == size
        if not whole:
            raise UsageError(f"{self.path}: {name} has another number of values than its shape {shape}")
        array = np.frombuffer(values, dtype) if field == "bytes" else np.array(values[:], dtype)
        return array.reshape(shape)

    def _blob(self, blob: Any, dtype: np.dtype, stored: int | None, shape: tuple[int, ...], name: str) -> np.ndarray:
        where = f"{self.path}: {name}, in {WEIGHTS_FILE} at {blob.offset},"
        if blob.fileName != f"@model_path/{WEIGHTS_FILE.split('/', 2)[2]}":
            raise UsageError(f"{self.path}: {name} is in {blob.fileName}, only {WEIGHTS_FILE} is known")
        if blob.offset + HEADER.itemsize > self._weights.size:
            raise UsageError(f"{where} lies behind the file's end")
        header = self._weights[blob.offset : blob.offset + HEADER.itemsize].view(HEADER)[0]
        if header["sentinel"] != SENTINEL:
            raise UsageError(f"{where} has no header there")
        if header["type"] != stored:
            raise UsageError(f"{where} is declared as {dtype}, and stored as type {header['type']}")
        first, size = int(header["offset"]), int(np.prod(shape)) * dtype.itemsize
        if header["bytes"] != size:
            raise UsageError(f"{where} has {header['bytes']} bytes, its shape {shape} needs {size}")
        if first + size > self._weights.size:
            raise UsageError(f"{where} is longer than the file")
        return np.asarray(self._weights[first : first + size]).view(dtype).reshape(shape)


def read(path: Path) -> Package:
    """The package at `path`; UsageError where a file is missing or broken, or it holds no ML program."""
    model = schema().Model()
    try:
        model.ParseFromString((path / MODEL).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path} is no Core ML package: it has no {MODEL}") from None
    except Exception as error:  # protobuf's DecodeError, whose module differs between its versions
        raise UsageError(f"{path / MODEL} is broken: {error}") from None
    if model.WhichOneof("Type") != "mlProgram" or "main" not in model.mlProgram.functions:
        raise UsageError(f"{path} holds no ML program with a function `main`")
    weights = path / WEIGHTS_FILE
    return Package(path, model, np.fromfile(weights, np.uint8) if weights.is_file() else np.zeros(0, np.uint8))
