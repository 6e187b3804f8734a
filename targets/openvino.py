"""OpenVINO IR for Intel and ARM CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

import json
import re
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

import numpy as np

from edgemtl import ledger, show
from edgemtl.artifact import Manifest
from edgemtl.device import processor
from edgemtl.errors import UsageError, needs, reading, unknown
from edgemtl.ledger import Found
from edgemtl.target import How, NoOptions, Session, Target
from edgemtl.targets import _deformable
from edgemtl.tasks import Size, Task
from edgemtl.threads import threads

if TYPE_CHECKING:
    from torch import nn

XML, BIN = "model.xml", "model.bin"
DEVICES = ("AUTO", "CPU", "GPU", "NPU")
FLOAT = "float"
ARITHMETIC = ("f32", "f16", "bf16", FLOAT)
HINTS = ("latency", "throughput")
NARROW = 4  # channels
SMALL = 1 << 20  # bytes
FIT = 128  # what two codes of one output channel may add up to: 255 * 128 is the most that 16 bits hold


class OpenVINO(Target):
    """Both ends of an OpenVINO artifact: input `frame` uint8 (1, H, W, 3) RGB, one output per task, named after it."""

    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    packages: tuple[str, ...] = ("openvino",)
    careful = f"CPU:{FLOAT}"  # the device that computes right on every CPU, though slower

    def convert(
        self,
        deployed: nn.Module,
        size: Size,
        tasks: dict[str, Task],
        folder: Path,
        precision: str,
        metadata: dict[str, str] | None = None,
        options: NoOptions | None = None,
    ) -> list[str]:
        """The names of the files written into `folder`; `metadata` goes into the IR under rt_info/edgemtl."""
        with needs("openvino"):
            import openvino as ov
        import torch

        from edgemtl.quantization.labels import labelled

        with torch.no_grad(), warnings.catch_warnings(), labelled(deployed.network):  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # about Python values that a fixed size makes constant
            # Traced, which takes half the time of torch.export and keeps the names of a dictionary's entries.
            model = ov.convert_model(deployed, example_input=torch.zeros(1, 3, *size), input=[1, 3, *size])
        assert {name for port in model.outputs for name in port.names} >= set(tasks)
        assert not _float_weights_under_quantizers(model)
        model = _take_camera_frames(model)
        _settle_ties_freely(model)
        _resize_to_one_pixel_as_torch(model)
        _enlarge_narrow_maps_by_matrices(model)
        _fold_sizes(model)
        made = _deformable.lower(model)
        _share_constants(model)
        _name_quantized(model)
        _keep_arithmetic_outside_quantizers(model)
        for key, value in {**(metadata or {}), "deformable": json.dumps(made)}.items():
            model.set_rt_info(value, ["edgemtl", key])
        ov.save_model(model, folder / XML, compress_to_fp16=precision == "fp16")
        text = (folder / XML).read_text(encoding="utf-8")
        (folder / XML).write_text(re.sub(r">\s+<", "><", text), encoding="utf-8")  # a fifth of it was indentation
        return [XML, BIN]

    def quantized(self, folder: Path) -> dict[str, list[Found]]:
        """What the IR in `folder` holds of each quantized tensor: FakeQuantize of activations, int8 constants."""
        with needs("openvino"):
            import openvino as ov
        from edgemtl.targets import _openvino

        return {XML: _openvino.quantized(_read(ov.Core(), folder / XML))}

    def open(self, folder: Path, manifest: Manifest, device: str | None = None) -> OpenVINOSession:
        """A session on `device`, NAME[:ARITHMETIC][:HINT], such as CPU, GPU.1, AUTO:f16 or CPU:bf16:throughput.

        NAME is AUTO, CPU, GPU, GPU.n or NPU. ARITHMETIC is that of float layers: f32, f16 or bf16. CPU takes f32 unless
        told otherwise: left alone, OpenVINO takes bfloat16 where the CPU has it, which changes the maps by up to one
        percent; GPU and NPU compute in f16. HINT is latency, for one frame at a time, or throughput, for several
        requests at once. UsageError for what does not exist or this machine lacks.

        CPU:float computes int8 layers in float32 as well, rounding to the same codes: right on every CPU, at less
        than half the speed. It is taken, and a line says so, where weights could overflow in this CPU's int8 kernels,
        and on ARM, where these round otherwise.
        """
        with needs("openvino"):
            import openvino as ov

        compiled, device = _compile(ov.Core(), folder / XML, device)
        with reading(folder / XML, "OpenVINO"):  # where it lacks a task's map
            return OpenVINOSession(compiled, list(manifest.tasks), device)

    def others(self, folder: Path, manifest: Manifest, device: str | None = None) -> list[str]:
        """The CPU's float32 for int8, if `device` has other arithmetic, whose bounds are wide."""
        other = _device(device or "CPU")[1] not in ("f32", FLOAT)
        return ["CPU"] if other and manifest.precision == "int8" else []

    def int8(self) -> str:
        """What this machine's instructions mean for int8 artifacts, in a line."""
        words, overflows = processor.describe(), processor.overflows()
        if processor.arm():
            return f"{words}: int8 kernels round up between two codes; int8 artifacts compute in float, slower"
        if not processor.x86():
            return f"{words}: adds products in 32 bits as far as is known; measured on x86 alone"
        if overflows is None:
            return f"{words}: artifacts with 7-bit weights are right, those with 8-bit weights compute in float, slower"
        if overflows:
            return (
                f"{words}: int8 kernels add pairs of products in 16 bits; artifacts with 7-bit weights are right,"
                " those with 8-bit weights compute in float, slower"
            )
        return f"{words}: int8 kernels add products in 32 bits; right with 7-bit and with 8-bit weights"

    def tensors(
        self, folder: Path, manifest: Manifest, frame: np.ndarray, device: str | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Values inside the network for one frame, by torch's names of modules, quantizers and tasks; see `blame`.

        They are made outputs of the graph, which keeps OpenVINO from fusing operations across them.
        """
        with needs("openvino"):
            import openvino as ov
            from openvino import opset13
        from edgemtl.targets import _openvino

        core = ov.Core()
        model = _read(core, folder / XML)
        inside = _openvino.places(model)
        first = len(model.outputs)
        model.add_results([opset13.result(output) for output in inside.values()])
        compiled, _ = _compile(core, model, device)
        values = compiled([np.ascontiguousarray(frame)[None]])
        for name in manifest.tasks:
            yield name, values[compiled.output(name)]
        for index, name in enumerate(inside, first):
            yield name, values[compiled.output(index)]


def _compile(core: Any, model: Any, device: str | None) -> tuple[Any, str]:
    """The model (or the IR in a file) compiled for a device, and the device's name in full."""
    name, arithmetic, hint = _device(device or "CPU")
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
    if kind == "CPU" and (count := threads()):
        options["INFERENCE_NUM_THREADS"] = count
    with reading(model if isinstance(model, Path) else "the network", f"OpenVINO, for {name}:{arithmetic},"):
        compiled = core.compile_model(model, name, options)
        # The option is none of the documented ones, so another version may do without it.
        if arithmetic == FLOAT and (kept := _int8_products(compiled)):
            raise UsageError(f"this OpenVINO does not switch its int8 kernels off: {kept} layers still use them")
        return compiled, f"{name} ({arithmetic}, {hint})"


def _read(core: Any, path: Path) -> Any:
    with reading(path, "OpenVINO"):
        return core.read_model(path)


def _device(text: str) -> tuple[str, str, str]:
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
    """What this CPU's int8 kernels would compute otherwise than torch, or None."""
    if not (processor.arm() or processor.overflows() is not False):
        return None
    model = _read(core, model) if isinstance(model, Path) else model
    kernels = f"the int8 kernels for this CPU ({processor.describe()})"
    if processor.arm() and _nodes(model, "FakeQuantize"):
        return f"{kernels} round up from the middle between two codes"  # ARM Compute Library's; all others to even
    return f"8-bit weights can overflow in {kernels}" if _may_overflow(model) else None


def _may_overflow(model: Any) -> bool:
    """Whether two codes of one output channel add up to more than FIT: too much where a CPU adds in 16 bits."""
    for node in _nodes(model, "Constant"):
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


class OpenVINOSession(Session):
    """Maps of one frame at a time, in each thread that asks."""

    how: How = "executed"

    def __init__(self, compiled: Any, names: list[str], device: str) -> None:
        self.compiled = compiled
        self.device = device
        self.float32 = "(f32," in device or f"({FLOAT}," in device
        self._ports = {name: compiled.output(name) for name in names}
        self._own = threading.local()  # a request holds the frame and the maps of one caller
        self._own.request = compiled.create_infer_request()

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """The maps (h, w) or (3, h, w) of an RGB uint8 frame (H, W, 3) of the manifest's size."""
        if not hasattr(self._own, "request"):
            self._own.request = self.compiled.create_infer_request()
        results = self._own.request.infer([np.ascontiguousarray(frame)[None]], share_inputs=True)
        return {name: results[port][0] for name, port in self._ports.items()}


def _take_camera_frames(model: Any) -> Any:
    """The model with its input changed from float (1, 3, H, W) to what a camera gives: uint8 (1, H, W, 3)."""
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    steps.input().model().set_layout(Layout("NCHW"))
    model = steps.build()
    model.inputs[0].set_names({"frame"})
    return model


def _float_weights_under_quantizers(model: Any) -> list[str]:
    """Names of quantizers that stand on a float constant: such weights would take four bytes each."""
    return [
        node.get_friendly_name()
        for node in _nodes(model, "FakeQuantize")
        if node.input_value(0).get_node().get_type_name() == "Constant"
    ]


def _settle_ties_freely(model: Any) -> None:
    """Lets argmax return any of several equal maxima: a stable TopK takes twenty times as long on a CPU."""
    for node in _nodes(model, "TopK"):
        node.set_attribute("stable", False)


def _resize_to_one_pixel_as_torch(model: Any) -> None:
    """Resizing with half-pixel centres whatever the size: torch has long done so.

    The front end asks for what torch did once: a map of one row or column took the first of what it is made from.
    """
    for node in _nodes(model, "Interpolate"):
        if node.get_attributes()["coordinate_transformation_mode"] == "pytorch_half_pixel":
            node.set_attribute("coordinate_transformation_mode", "half_pixel")


def _enlarge_narrow_maps_by_matrices(model: Any) -> None:
    """Bilinear resizing of maps with few channels as two matrix products, which compute the same.

    On channels-last maps OpenVINO's Interpolate works channel by channel: 3 of them take half as long as 40.
    """
    from openvino import opset13 as op

    for node in _nodes(model, "Interpolate"):
        shape, made = node.input_value(0).get_shape(), node.output(0).get_shape()
        how = node.get_attributes()
        centred = how["coordinate_transformation_mode"] in ("half_pixel", "pytorch_half_pixel")
        bilinear = how["mode"] in ("linear", "linear_onnx") and centred and not how["antialias"]
        if not (bilinear and len(shape) == 4 and shape[1] <= NARROW and list(made)[:2] == list(shape)[:2]):
            continue
        rows, columns = (op.constant(_bilinear(shape[axis], made[axis])) for axis in (2, 3))
        wide = op.matmul(node.input_value(0), columns, False, True)
        high = op.matmul(rows, wide, False, False)
        high.set_friendly_name(node.get_friendly_name())
        high.output(0).set_names(node.output(0).get_names())  # a task's, where this is its map
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(high.output(0))


def _bilinear(taken: int, made: int) -> np.ndarray:
    """The (made, taken) matrix of bilinear resizing along one axis with half-pixel centres."""
    at = ((np.arange(made) + 0.5) * taken / made - 0.5).clip(0, taken - 1)
    low = np.minimum(at.astype(int), taken - 2) if taken > 1 else np.zeros(made, int)
    matrix = np.zeros((made, taken), np.float32)
    matrix[np.arange(made), low] = 1 - (at - low)
    if taken > 1:
        matrix[np.arange(made), low + 1] = at - low
    return matrix


def _fold_sizes(model: Any) -> None:
    """Computes what follows from the fixed size of the input; int8 weights stay int8."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def _share_constants(model: Any) -> None:
    """One node for all equal small constants: each quantizer brings four numbers, each of them 250 bytes of XML."""
    first: dict[Any, Any] = {}
    for node in _nodes(model, "Constant"):
        if node.get_byte_size() <= SMALL:
            key = str(node.get_element_type()), tuple(node.get_output_shape(0)), node.get_data().tobytes()
            same = first.setdefault(key, node)
            for reader in node.output(0).get_target_inputs() if same is not node else ():
                reader.replace_source_output(same.output(0))


def _name_quantized(model: Any) -> None:
    """Names what quantizers became, FakeQuantize of activations and Multiply of int8 weights, as the ledger does."""
    from edgemtl.quantization.labels import name_in, natural

    places: Counter[str] = Counter()
    for node in sorted(model.get_ordered_ops(), key=lambda node: natural(node.get_friendly_name())):
        name = name_in(node.get_friendly_name()) if node.get_type_name() in ("FakeQuantize", "Multiply") else None
        if name:
            node.set_friendly_name(ledger.place(name, places[name]))
            places[name] += 1


def _keep_arithmetic_outside_quantizers(model: Any) -> None:
    """Takes products and sums with constants out of the ranges of quantizers, where the front end has put them.

    A range is then -128..127 times one scale, which can be read back, and what else is computed stands in the file. A
    device puts them together again when it compiles the model.
    """
    from openvino import opset13 as op

    for node in _nodes(model, "FakeQuantize"):
        low, high, low_out, high_out = (node.input_value(port).get_node() for port in range(1, 5))
        if any(bound.get_type_name() != "Constant" for bound in (low, high, low_out, high_out)):
            continue
        taken, made = (
            [bound.get_data().astype(np.float64) for bound in pair] for pair in ((low, high), (low_out, high_out))
        )
        factor = (made[1] - made[0]) / (taken[1] - taken[0])
        shift = made[0] - taken[0] * factor
        x = node.input_value(0)
        if (factor != 1).any():
            x = op.multiply(x, op.constant(factor.astype(np.float32))).output(0)
        if shift.any():
            x = op.add(x, op.constant(shift.astype(np.float32))).output(0)
        if x != node.input_value(0):
            node.input(0).replace_source_output(x)
            node.input(1).replace_source_output(low_out.output(0))
            node.input(2).replace_source_output(high_out.output(0))


def _nodes(model: Any, kind: str) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


target = OpenVINO()
