"""OpenVINO IR for Intel and ARM CPUs, Intel GPUs and NPUs."""

from pathlib import Path
from typing import Any, Iterator

import numpy as np

from edgemtl.device import processor
from edgemtl.ground.errors import needs, reading
from edgemtl.records.artifact import Manifest
from edgemtl.records.ledger import Found
from edgemtl.records.target import Original, Target
from edgemtl.targets.openvino.session import FLOAT, XML, OpenVINOSession, compiler_for, parse, read


class OpenVINO(Target):
    """Both ends of an OpenVINO artifact: input `frame` uint8 (1, H, W, 3) RGB, one output per task, named after it."""

    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    packages: tuple[str, ...] = ("openvino",)
    runtime, rank = "openvino", 1
    careful = f"CPU:{FLOAT}"  # the device that computes right on every CPU, though slower

    def convert(self, original: Original, folder: Path) -> list[str]:
        """The names of the files written into `folder`; `metadata` goes into the IR under rt_info/edgemtl."""
        with needs("openvino"):
            from edgemtl.targets.openvino.convert import convert
        return convert(original, folder)

    def quantized(self, folder: Path) -> dict[str, list[Found]]:
        """What the IR in `folder` holds of each quantized tensor: FakeQuantize of activations, int8 constants."""
        with needs("openvino"):
            import openvino as ov
        from edgemtl.targets.openvino import readback

        return {XML: readback.quantized(read(ov.Core(), folder / XML))}

    def open(self, folder: Path, manifest: Manifest, device: str | None = None) -> OpenVINOSession:
        """A session on `device`, NAME[:ARITHMETIC][:HINT], such as CPU, GPU.1, AUTO:f16 or CPU:bf16:throughput.

        NAME is AUTO, CPU, GPU, GPU.n or NPU. ARITHMETIC is that of float layers: f32, f16 or bf16. The default is f32
        on a CPU (OpenVINO's own is bfloat16 where the CPU has it, which changes the maps by up to one percent) and f16
        on GPU and NPU. HINT is latency, for one frame at a time, or throughput, for several requests at once.
        UsageError for a device that does not exist or that this machine lacks.

        CPU:float computes int8 layers in float32, rounded to the same codes. That is right on every CPU, at less than
        half the speed. It is chosen, and a line says so, where weights could overflow in this CPU's int8 kernels, and
        on ARM, whose kernels round differently.
        """
        with needs("openvino"):
            import openvino as ov

        core, file, names = ov.Core(), folder / XML, list(manifest.tasks)
        compiler, device = compiler_for(core, file, device)

        def cut(tasks: list[str]) -> Any:
            model = read(core, file)
            return compiler(ov.Model([model.output(task).node for task in tasks], model.get_parameters()))

        with reading(file, "OpenVINO"):  # where it lacks a task's map
            return OpenVINOSession(compiler(file), names, device, cut)

    def others(self, folder: Path, manifest: Manifest, device: str | None = None) -> list[str]:
        """The CPU's float32 for int8, if `device` has other arithmetic, whose bounds are wide."""
        other = parse(device or "CPU")[1] not in ("f32", FLOAT)
        return ["CPU"] if other and manifest.precision == "int8" else []

    def int8(self) -> str:
        words, overflows = processor.describe_instructions(), processor.overflows()
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

        They become outputs of the graph, so that OpenVINO does not fuse operations across them.
        """
        with needs("openvino"):
            import openvino as ov
            from openvino import opset13
        from edgemtl.targets.openvino import readback

        core = ov.Core()
        model = read(core, folder / XML)
        inside = readback.places(model)
        first = len(model.outputs)
        model.add_results([opset13.result(output) for output in inside.values()])
        compiler, _ = compiler_for(core, model, device)
        compiled = compiler(model)
        values = compiled([np.ascontiguousarray(frame)[None]])
        for name in manifest.tasks:
            yield name, values[compiled.output(name)]
        for index, name in enumerate(inside, first):
            yield name, values[compiled.output(index)]


target = OpenVINO()
