"""ONNX (opset 17, IR 8) with Q/DQ int8, for ONNX Runtime and whatever else reads the format, and for WebGPU."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from edgemtl.device import overflow
from edgemtl.ground.errors import UsageError, needs, spelled
from edgemtl.records.artifact import Manifest
from edgemtl.records.ledger import Found
from edgemtl.records.target import Original, Target
from edgemtl.targets import _onnx
from edgemtl.targets.onnx import cpu, wasm, webgpu

FILE = "model.onnx"
WEBGPU = "model.webgpu.onnx"  # of int8: the same integers, for a browser's GPU; see webgpu.py
WASM = "model.wasm.onnx"  # of int8: the same integers, for a browser's WebAssembly; see wasm.py
DEVICES = {"CPU": FILE, "CPU:webgpu": WEBGPU, "CPU:wasm": WASM}


class ONNX(Target):
    """Both ends of an ONNX artifact: input `frame` uint8 (1, H, W, 3) RGB, one output per task, named after it."""

    precisions: tuple[str, ...] = ("fp32", "int8")
    packages: tuple[str, ...] = ("onnx", "onnxsim", "onnxruntime")
    runtime, rank = "onnxruntime", 2

    def convert(self, original: Original, folder: Path) -> list[str]:
        """The names of the files written into `folder`; `metadata` goes into the model's metadata_props."""
        model = _onnx.build(original, "onnx")
        import onnx

        if original.precision != "int8":
            onnx.save(cpu.spelled_out(model), folder / FILE)
            return [FILE]
        # With unsigned activations, products of 8-bit weights overflow on a CPU without VNNI. With signed ones every
        # CPU adds them in 32 bits, at the speed of float.
        wide = overflow.prove_no_overflow({FILE: _onnx.read_quantized(model.graph)}).needs
        onnx.save(cpu.spelled_out(model if wide else cpu.rewritten(model)), folder / FILE)
        onnx.save(webgpu.rewritten(model), folder / WEBGPU)
        if wide:
            return [FILE, WEBGPU]
        onnx.save(wasm.rewritten(cpu.spelled_out(cpu.rewritten(model, products=False))), folder / WASM)
        return [FILE, WEBGPU, WASM]

    def quantized(self, folder: Path) -> dict[str, list[Found]]:
        """What each file in `folder` holds of each quantized tensor."""
        with needs("onnx"):
            found = {name: cpu.quantized(folder / name) for name in (FILE, WASM) if (folder / name).is_file()}
            return found | {WEBGPU: webgpu.quantized(folder / WEBGPU)}

    def open(self, folder: Path, manifest: Manifest, device: str | None = None) -> "ONNXSession":
        """A session of ONNX Runtime on the CPU; with CPU:webgpu and CPU:wasm of the files that browsers take.

        UsageError for any other device, or where there is no such file.
        """
        with needs("onnx"):
            import onnxruntime  # noqa: F401  # its absence is said before anything of the folder
        name = _device(folder, device)
        names, file = list(manifest.tasks), folder / DEVICES[name]

        def cut(tasks: list[str]) -> Any:
            with needs("onnx"):
                model = _onnx.cut(_onnx.load(file), tasks)
            return _onnx.runtime(model.SerializeToString(), file, tasks)

        return ONNXSession(_onnx.runtime(file, file, names), names, name, cut)

    def others(self, folder: Path, manifest: Manifest, device: str | None = None) -> list[str]:
        ran = _device(folder, device)
        return [name for name, file in DEVICES.items() if name != ran and (folder / file).is_file()]

    def int8(self) -> str:
        return "7-bit weights beside unsigned codes, 8-bit ones beside signed codes: right on every CPU, VNNI or not"

    def tensors(
        self, folder: Path, manifest: Manifest, frame: np.ndarray, device: str | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Values inside the network for one frame, by torch's names of modules, quantizers and tasks; see `blame`."""
        name = _device(folder, device)
        with needs("onnx"):
            more = webgpu.places if DEVICES[name] == WEBGPU else cpu.places
            yield from _onnx.tensors(folder / DEVICES[name], frame, list(manifest.tasks), more)


def _device(folder: Path, text: str | None) -> str:
    """The device's name as in DEVICES; UsageError where there is none, or no file for it."""
    name = spelled("ONNX Runtime device", text or "CPU", DEVICES)
    if not (folder / DEVICES[name]).is_file():
        raise UsageError(f"{folder} has no {DEVICES[name]}, which {name} runs")
    return name


class ONNXSession(_onnx.RuntimeSession):  # type: ignore[misc]  # mypy does not see edgemtl.targets
    """Maps of one frame at a time."""

    how, float32 = "executed", True

    def __init__(self, session: Any, names: list[str], device: str, cut: Callable[[list[str]], Any]) -> None:
        super().__init__(session, names)
        self._name, self._cut = device, cut  # makes a session of these outputs alone
        self.device = f"{device} (f32)"

    def of(self, tasks: Collection[str]) -> "ONNXSession":
        names = [name for name in self._names if name in tasks]
        return ONNXSession(self._cut(names), names, self._name, self._cut)


target = ONNX()
