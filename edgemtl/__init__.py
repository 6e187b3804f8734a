"""edgemtl: multi-task dense prediction, from a training recipe to int8 on a device."""

import sys
from importlib import import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemtl.device.predictor import Predictor
    from edgemtl.verbs import bench, compress, convert, deploy, evaluate, matrix, selftest, train, verify

__all__ = [
    "Predictor", "__version__", "bench", "compress", "convert", "deploy", "evaluate", "matrix", "selftest", "train",
    "verify",
]  # fmt: skip
__version__ = "0.10.1"

# In a checkout `recipes/`, `targets/` and `apps/` stand beside this folder; an installed wheel has them inside it.
if (_Path(__file__).parent.parent / "setup.cfg").is_file():
    __path__.append(str(_Path(__file__).parent.parent))

# OpenVINO and NNCF would tell their makers of every import and conversion, each time from a fork of this process, which
# costs a second and more. They do without where this package, which they bring along, cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def __getattr__(name: str) -> Any:
    # Not imported before it is used, so that `edgemtl list` is quick and `edgemtl doctor` works without OpenCV.
    if name in __all__:
        return getattr(import_module("edgemtl.device.predictor" if name == "Predictor" else "edgemtl.verbs"), name)
    raise AttributeError(f"module 'edgemtl' has no attribute {name!r}")
