"""Reading checkpoints of strangers: whatever a pickle names, nothing but tensors and plain collections is made of it.

Lightning's checkpoints hold callbacks, hyper-parameters and NumPy scalars beside the weights. torch's own safe reader
refuses them as a whole; unpickling them as usual would run what the file says.
"""

import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgemtl.ground.errors import UsageError


class Inert:
    """Stands for every class and function not known here, and for what they make; takes anything, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def _take(self, *_: Any, **__: Any) -> "Inert":
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = _take


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda value, *_: value,
}
NUMBERS = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class Unpickler(pickle.Unpickler):
    """Reads the pickle of an archive written by torch.save (since 1.6), whose tensors' bytes are files beside it."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        [name] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        super().__init__(archive.open(name))
        self.archive, self.folder = archive, name.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        return NUMBERS.get(name, Inert) if module == "torch" else KNOWN.get((module, name), Inert)

    def persistent_load(self, key: Any) -> Tensor:
        _, number, name, *_ = key
        content = bytearray(self.archive.read(f"{self.folder}data/{name}"))
        return torch.frombuffer(content, dtype=number) if content else torch.empty(0, dtype=number)


def read(path: Path) -> dict[str, Any]:
    """What torch.save or Lightning wrote, foreign objects inert; UsageError where it is missing or no checkpoint."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a younger pickle protocol
                content = torch.load(path, "cpu", weights_only=True)
        except pickle.UnpicklingError:
            with zipfile.ZipFile(path) as archive:
                content = Unpickler(archive).load()
    except Exception as error:  # broken files raise a dozen kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path} cannot be read as a checkpoint: {reason}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no state_dict")
    return content
