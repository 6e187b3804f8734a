"""An OpenVINO IR compiled for a device, with arithmetic that is right there."""

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.device import processor
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError, reading, unknown
from edgemtl.ground.threads import threads
from edgemtl.records.target import How, Session
from edgemtl.targets.openvino import cache
from edgemtl.targets.openvino.nodes import of_kind

XML, BIN = "model.xml", "model.bin"
DEVICES = ("AUTO", "CPU", "GPU", "NPU")
FLOAT = "float"
ARITHMETIC = ("f32", "f16", "bf16", FLOAT)
HINTS = ("latency", "throughput")
FIT = 128  # the largest sum of two codes of one output channel: 255 * 128 still fits into 16 bits


class OpenVINOSession(Session):
    """Maps of one frame at a time, in each thread that asks."""

    how: How = "executed"

    def __init__(
        self, compiled: Any, names: list[str], device: str, cut: Callable[[list[str]], Any] | None = None
    ) -> None:
        self.compiled = compiled
        self.device = device
        self._cut = cut  # compiles the model with these outputs alone
        self.float32 = "(f32," in device or f"({FLOAT}," in device
        self._ports = {name: compiled.output(name) for name in names}
        self._own = threading.local()  # a request holds the frame and the maps of one caller
        self._own.request = compiled.create_infer_request()

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        if not hasattr(self._own, "request"):
            self._own.request = self.compiled.create_infer_request()
        results = self._own.request.infer([np.ascontiguousarray(frame)[None]], share_inputs=True)
        return {name: results[port][0] for name, port in self._ports.items()}

    def of(self, tasks: Collection[str]) -> "OpenVINOSession":
        assert self._cut is not None
        names = [name for name in self._ports if name in tasks]
        return OpenVINOSession(self._cut(names), names, self.device)


def compiler_for(core: Any, model: Any, device: str | None) -> tuple[Callable[[Any], Any], str]:
    """A function that compiles the model (or the IR in a file) for a device, and the device's name in full."""
    name, arithmetic, hint = parse(device or "CPU")
    kind = name.partition(".")[0]
    if kind != "AUTO" and not any(found.startswith(name) for found in core.available_devices):
        raise UsageError(f"OpenVINO finds no {name} on this machine; it has {', '.join(core.available_devices)}")
    if kind in ("AUTO", "CPU") and arithmetic != FLOAT and (problem := _problem(core, model)):
        others = [found for found in core.available_devices if kind == "AUTO" and not found.startswith("CPU")]
        kind, name, arithmetic = (kind, f"AUTO:{','.join(others)}", arithmetic) if others else ("CPU", "CPU", FLOAT)
        instead = name if others else f"{name}:{FLOAT}, slower"
        show.note(f"openvino: {problem}; taking {instead}")
    options: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper(), "INFERENCE_PRECISION_HINT": arithmetic}
    if arithmetic == FLOAT:
        options |= {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    if kind != "NPU":  # which knows no such option
        # A product of float maps and int8 weights would round the maps to codes of its own choice, frame by frame.
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    if kind == "CPU" and (count := threads()):
        options["INFERENCE_NUM_THREADS"] = count

    def compiled(model: Any) -> Any:
        with reading(model if isinstance(model, Path) else "the network", f"OpenVINO, for {name}:{arithmetic},"):
            kept = isinstance(model, Path)  # and not changed since
            made = cache.compile(core, model, name, options) if kept else core.compile_model(model, name, options)
            # The option is none of the documented ones, so another version may do without it.
            if arithmetic == FLOAT and (layers := _int8_products(made)):
                raise UsageError(f"this OpenVINO does not switch its int8 kernels off: {layers} layers still use them")
            return made

    return compiled, f"{name} ({arithmetic}, {hint})"


def read(core: Any, path: Path) -> Any:
    with reading(path, "OpenVINO"):
        return core.read_model(path)


def parse(text: str) -> tuple[str, str, str]:
    """Name, arithmetic and hint of NAME[:ARITHMETIC][:HINT]; UsageError where a part is unknown."""
    name, *words = text.split(":")
    name = name.upper()
    kind, _, number = name.partition(".")
    if kind not in DEVICES:
        raise unknown("OpenVINO device", name, DEVICES)
    if name != kind and (kind == "AUTO" or not number.isdecimal()):
        raise UsageError(f"OpenVINO device {name!r}: after the dot comes a number, as in GPU.1")
    arithmetic = hint = ""
    for word in map(str.lower, words):
        if word in ARITHMETIC and not arithmetic:
            arithmetic = word
        elif word in HINTS and not hint:
            hint = word
        elif word in ARITHMETIC + HINTS:
            raise UsageError(f"OpenVINO device {text!r}: one arithmetic and one hint at most")
        else:
            raise unknown("arithmetic or hint", word, ARITHMETIC + HINTS)
    if arithmetic == FLOAT and kind != "CPU":
        raise UsageError(f"OpenVINO device {text!r}: {FLOAT} goes with CPU alone")
    return name, arithmetic or ("f16" if kind in ("GPU", "NPU") else "f32"), hint or HINTS[0]


def _problem(core: Any, model: Any) -> str | None:
    """How this CPU's int8 kernels would differ from torch; None if they do not."""
    if not (processor.arm() or processor.overflows() is not False):
        return None
    model = read(core, model) if isinstance(model, Path) else model
    kernels = f"the int8 kernels for this CPU ({processor.describe_instructions()})"
    if processor.arm() and of_kind(model, "FakeQuantize"):
        return f"{kernels} round up from the middle between two codes"  # ARM Compute Library's; all others to even
    return f"8-bit weights can overflow in {kernels}" if _may_overflow(model) else None


def _may_overflow(model: Any) -> bool:
    """Whether two codes of one output channel add up to more than FIT: too much where a CPU adds in 16 bits."""
    for node in of_kind(model, "Constant"):
        if node.get_element_type().get_type_name() == "i8" and len(shape := node.get_output_shape(0)) > 1:
            grouped = len(shape) == 5  # (groups, channels, ...) of a GroupConvolution
            codes = np.abs(node.get_data().astype(np.int16)).reshape(shape[0] * shape[1] if grouped else shape[0], -1)
            if np.sort(codes, axis=1)[:, -2:].sum(axis=1).max() > FIT:
                return True
    return False


def _int8_products(compiled: Any) -> int:
    """How many layers of a compiled model multiply in int8."""
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = [(info["layerType"].astype(str), info["primitiveType"].astype(str)) for info in nodes]
    products = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
    return sum(layer in products and kernel.lower().endswith(("i8", "u8")) for layer, kernel in kinds)
