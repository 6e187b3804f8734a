"""TensorRT engines inside a torch program, compiled by Torch-TensorRT on the machine with the GPU that will run it.

Compiling takes a GPU. Without one, tests/benchmarks/converters.py says whether Torch-TensorRT has a converter for every
operation of a recipe: it reads the names in the sources of its wheel.
"""

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.ground.errors import CheckFailed, UsageError, needs, reading
from edgemtl.records.artifact import Manifest
from edgemtl.records.target import How, Original, Session, Target

FILE = "model.pt2"
QUANTIZE = "tensorrt.quantize_op.default"  # of nvidia-modelopt; the only quantizer that has a converter


class TorchTensorRT(Target):
    """Both ends: input `frame` uint8 (1, H, W, 3) RGB, one output per task; compiling and running both need the GPU."""

    precisions: tuple[str, ...] = ("fp32", "int8")
    packages: tuple[str, ...] = ("torch_tensorrt", "tensorrt", "nvidia-modelopt")

    def convert(self, original: Original, folder: Path) -> list[str]:
        """The name of the exported program written into `folder`: it holds engines for this GPU and this TensorRT.

        UsageError where Torch-TensorRT, modelopt (int8) or a GPU is missing.
        """
        torch, compiler = _there("modelopt" if original.precision == "int8" else "")
        if original.precision == "int8":
            quantize_by_amax(original.deployed)
        from edgemtl.networks.session import Camera

        camera = Camera(original.deployed, list(original.tasks))
        frame = torch.zeros(1, *original.size, 3, dtype=torch.uint8, device="cuda")
        with torch.no_grad():
            program = torch.export.export(camera.eval().cuda(), (frame,))
            compiled = compiler.dynamo.compile(
                program,
                arg_inputs=[frame],
                disable_tf32=True,
                min_block_size=1,
                timing_cache_path=str(folder.parent / "torch-tensorrt.cache"),
            )
            compiler.save(compiled, str(folder / FILE), output_format="exported_program", arg_inputs=[frame])
        return [FILE]

    def open(self, folder: Path, manifest: Manifest, device: str | None = None) -> "TorchTensorRTSession":
        """A session on the GPU; UsageError where it or Torch-TensorRT is missing."""
        torch, compiler = _there()
        name = device or "cuda"
        if not name.startswith("cuda"):
            raise UsageError(f"Torch-TensorRT runs on cuda, not on {device}; --target tensorrt has a stand-in for CPUs")
        with reading(folder / FILE, "Torch-TensorRT"):
            program = compiler.load(str(folder / FILE)).module()
        return TorchTensorRTSession(program, list(manifest.tasks), name, torch)


class TorchTensorRTSession(Session):
    """Maps of one frame at a time; threads wait for each other, since an engine has one execution context."""

    how: How = "executed"
    float32 = False  # nothing is known of what its kernels keep between layers

    def __init__(self, program: Any, names: list[str], device: str, torch: Any) -> None:
        self._program, self._names, self._torch, self._where = program, names, torch, device
        self.device = f"{torch.cuda.get_device_name(device)}, Torch-TensorRT"
        self._busy = threading.Lock()

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        batch = self._torch.from_numpy(np.ascontiguousarray(frame))[None].to(self._where)
        with self._busy, self._torch.inference_mode():
            return {name: map[0].cpu().numpy() for name, map in zip(self._names, self._program(batch))}


def _there(also: str = "") -> tuple[Any, Any]:
    """torch and torch_tensorrt; UsageError with the one thing that is missing."""
    with needs("torch_tensorrt"):
        import torch
    for package in ("torch_tensorrt", also):
        if package and find_spec(package) is None:
            raise UsageError(f'{package} is not installed; pip install "edgemtl[torch_tensorrt]"')
    if not torch.cuda.is_available():
        raise UsageError("Torch-TensorRT needs an NVIDIA GPU, and torch sees none; --target tensorrt converts anywhere")
    if also:
        import modelopt.torch.quantization  # noqa: F401  (registers the quantizer's operation)
    import torch_tensorrt

    return torch, torch_tensorrt


def quantize_by_amax(deployed: Any) -> None:
    """Puts modelopt's operation in every quantizer's place, in place, with the same scales.

    The operation takes the largest value, which is 127 scales, and Torch-TensorRT divides it by 127 again. A float16
    scale has 11 bits and 127 has 7, so nothing is rounded. CheckFailed for a weight whose scales are not along its
    first axis.
    """
    import torch

    from edgemtl.quantization import quantizers

    class Quantize(torch.nn.Module):
        largest: torch.Tensor

        def __init__(self, scale: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("largest", scale * 127)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            largest = self.largest.reshape([-1] + [1] * (x.ndim - 1)) if self.largest.ndim else self.largest
            return torch.ops.tensorrt.quantize_op(x, largest, 8, 0, False, False)

    for quantizer, places in quantizers.quantizers(deployed.network).items():
        if quantizer.axis not in (None, 0):
            raise CheckFailed(
                f"{quantizer.name}: scales along axis {quantizer.axis}; Torch-TensorRT takes axis 0 alone"
            )
        replacement = Quantize(quantizer.scale)
        for slot in places:
            quantizers.refill(deployed.network, slot, replacement)


target = TorchTensorRT()
