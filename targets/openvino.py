"""OpenVINO IR for Intel and ARM CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemtl.artifact import Manifest
from edgemtl.errors import UsageError, needs, unknown
from edgemtl.tasks import Size, Task
from edgemtl.threads import threads

if TYPE_CHECKING:
    from torch import nn

XML, BIN = "model.xml", "model.bin"
DEVICES = ("AUTO", "CPU", "GPU", "NPU")
ARITHMETIC = ("f32", "f16", "bf16")


class OpenVINO:
    """Both ends of an OpenVINO artifact: input `frame` uint8 (1, H, W, 3) RGB, one output per task, named after it."""

    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    packages: tuple[str, ...] = ("openvino",)

    def convert(
        self,
        deployed: nn.Module,
        size: Size,
        tasks: dict[str, Task],
        folder: Path,
        precision: str,
        metadata: dict[str, str] | None = None,
    ) -> list[str]:
        """The names of the files written into `folder`; `metadata` goes into the IR under rt_info/edgemtl."""
        with needs("openvino"):
            import openvino as ov
        import torch

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about Python values that a static shape makes constant
            # Tracing and torch.export give the same graph; tracing keeps the names of a dictionary's entries.
            model = ov.convert_model(deployed, example_input=torch.zeros(1, 3, *size), input=[1, 3, *size])
        assert not _float_weights_under_quantizers(model)
        model = _take_camera_frames(model)
        assert {name for port in model.outputs for name in port.names} >= set(tasks)
        for key, value in (metadata or {}).items():
            model.set_rt_info(value, ["edgemtl", key])
        ov.save_model(model, folder / XML, compress_to_fp16=precision == "fp16")
        return [XML, BIN]

    def open(self, folder: Path, manifest: Manifest, device: str | None = None) -> OpenVINOSession:
        """A session on `device`: AUTO, CPU, GPU, GPU.1 or NPU, with the arithmetic of float layers after a colon.

        "CPU" is "CPU:f32": left alone, OpenVINO takes bfloat16 where the CPU has it, which changes the maps by up to
        one percent. GPU and NPU compute in f16. UsageError for a device or an arithmetic that this machine lacks.
        """
        with needs("openvino"):
            import openvino as ov

        name, _, arithmetic = (device or "CPU").partition(":")
        name = name.upper()
        kind = name.partition(".")[0]
        if kind not in DEVICES:
            raise unknown("OpenVINO device", name, DEVICES)
        arithmetic = arithmetic or ("f16" if kind in ("GPU", "NPU") else "f32")
        if arithmetic not in ARITHMETIC:
            raise unknown("arithmetic", arithmetic, ARITHMETIC)
        core = ov.Core()
        if kind != "AUTO" and not any(found.startswith(name) for found in core.available_devices):
            raise UsageError(f"OpenVINO finds no {name} on this machine; it has {', '.join(core.available_devices)}")
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": arithmetic}
        if kind == "CPU" and (count := threads()):
            options["INFERENCE_NUM_THREADS"] = count
        try:
            compiled = core.compile_model(folder / XML, name, options)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise UsageError(f"OpenVINO cannot compile {folder / XML} for {name}:{arithmetic}: {last}") from error
        return OpenVINOSession(compiled, list(manifest.tasks), f"{name} ({arithmetic})")


class OpenVINOSession:
    """Maps of one frame at a time."""

    def __init__(self, compiled: Any, names: list[str], device: str) -> None:
        self.compiled = compiled
        self.device = device
        self._ports = {name: compiled.output(name) for name in names}
        self._request = compiled.create_infer_request()

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """The maps (h, w) or (3, h, w) of an RGB uint8 frame (H, W, 3) of the manifest's size."""
        results = self._request.infer([np.ascontiguousarray(frame)[None]], share_inputs=True)
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
    """Names of quantizers that stand on a float constant: OpenVINO would store such weights in four bytes each."""
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize" and node.input_value(0).get_node().get_type_name() == "Constant"
    ]


target = OpenVINO()
