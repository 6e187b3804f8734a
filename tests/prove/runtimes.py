"""The rows of the table: which runtime on which processor, and how its runner is started."""

import os
import shutil
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

from edgemtl import artifact, convert, registry
from edgemtl.errors import UsageError
from edgemtl.files import sha256
from edgemtl.targets.onnx import FILE, WEBGPU
from edgemtl.targets.openvino import XML
from edgemtl.targets.tensorrt import devices
from tests.prove import install, probe, processors
from tests.prove.install import Absent
from tests.prove.processors import Processor

TARGETS = ("openvino", "onnx", "tensorrt", "coreml")
# What torch's own kernels obey, beside oneDNN's, which obey the cap.
ATEN = {"AVX512_CORE_VNNI": "avx512", "AVX512_CORE": "avx512", "AVX2_VNNI": "avx2", "AVX2": "avx2"}


class Row(NamedTuple):
    """One line of the table. `command` lacks the frames and the results, which stand where FRAMES and RESULTS do."""

    runtime: str
    processor: str
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    slow: bool = False  # emulated, so few frames
    float16: bool = False  # other arithmetic between the quantizers, so that equality is not asked for
    absent: str = ""  # why it cannot be started here


FRAMES, RESULTS = "{frames}", "{results}"


def files(run: Path, work: Path) -> dict[str, Path]:
    """Folders for runners in `work`, by name: the run, its artifacts, and files with their quantizers as outputs.

    An int8 artifact that lies in the run and is of these weights is taken, any other converted into `work`.
    """
    weights = sha256(convert.weights(run, "int8"))
    made = {"run": run}
    copy = work / "run"
    for target in TARGETS:
        folder = convert.place(run, target, "int8")
        if not (folder / artifact.FILE).is_file() or artifact.read(folder).weights_sha256 != weights:
            if not copy.is_dir():
                copy.mkdir(parents=True)
                for file in filter(Path.is_file, run.iterdir()):
                    shutil.copyfile(file, copy / file.name)
            folder = convert.convert(copy, target=target)
        made[target] = folder
    tasks = list(artifact.read(made["openvino"]).tasks)
    made["ir"] = probe.openvino(made["openvino"] / XML, work / "ir", tasks)
    made["q/dq"] = probe.onnx(made["onnx"] / FILE, work / "qdq", tasks)
    made["webgpu"] = probe.onnx(made["onnx"] / WEBGPU, work / "webgpu", tasks)
    made["trt"] = probe.onnx(made["tensorrt"] / devices.ONNX, work / "trt", tasks)
    made["trt16"] = probe.onnx(made["tensorrt"] / devices.TYPED, work / "trt16", tasks)
    return made


def rows(made: dict[str, Path]) -> Iterator[Row]:
    """Every row, in the order of the table; the first is torch on this machine, the reference."""
    native, capped = processors.native(), processors.capped()
    avx2, aarch64 = _or_reason(processors.avx2), _or_reason(processors.aarch64)
    names = {"AVX2 without VNNI, QEMU": avx2, "AArch64, QEMU": aarch64}

    def row(runtime: str, processor: Processor | str, runner: str, folder: str, *how: str, **more: bool) -> Row:
        if isinstance(processor, str):
            where = next(name for name, found in names.items() if found is processor)
            return Row(runtime, where, absent=processor)
        command = (*processor.command, "-m", f"tests.prove.runners.{runner}", str(made[folder]), FRAMES, RESULTS, *how)
        environment = dict(processor.environment)
        if runner == "torch_reference" and processor.kind == "capped":
            environment["ATEN_CPU_CAPABILITY"] = ATEN[environment[processors.CAP]]
        slow = processor.kind == "emulated"
        return Row(runtime, processor.name, command, processors.environment(environment), slow, **more)

    for processor in (native, *capped, avx2):
        yield row("torch", processor, "torch_reference", "run")
    for kernels in ("int8", "float"):
        for processor in (native, *capped, avx2, aarch64):
            yield row(f"OpenVINO, {kernels} kernels", processor, "openvino_cpu", "ir", kernels)
    for level, word in (("all", "optimised"), ("none", "not optimised")):
        for processor in (native, avx2, aarch64):
            yield row(f"ONNX Runtime, {word}", processor, "onnxruntime_cpu", "q/dq", level)
    yield _web(made["q/dq"])
    yield _webgpu(row("ONNX Runtime, WebGPU form", native, "onnxruntime_cpu", "webgpu", "webgpu"))
    yield row("ONNX Runtime on the WebGPU form", native, "onnxruntime_cpu", "webgpu", "none")
    yield row("Core ML evaluator, float32", native, "coreml_evaluator", "coreml", "float32")
    yield row("TensorRT's model.onnx, stand-in", native, "onnxruntime_cpu", "trt", "none")
    yield row("Core ML evaluator, declared types", native, "coreml_evaluator", "coreml", "declared", float16=True)
    yield row("TensorRT's model.fp16.onnx, stand-in", native, "onnxruntime_cpu", "trt16", "none", float16=True)


def _or_reason(find: Callable[[], Processor]) -> Processor | str:
    try:
        return find()
    except Absent as reason:
        return str(reason)


def _web(folder: Path) -> Row:
    name = f"onnxruntime-web {install.WEB[1]}, WebAssembly"
    try:
        package = install.web()
    except Absent as reason:
        return Row(name, "native, node", absent=str(reason))
    script = Path(__file__).parent / "runners" / "web.mjs"
    command = ("node", str(script), str(package), str(folder), FRAMES, RESULTS)
    return Row(name, "native, node", command, dict(os.environ))


def _webgpu(row: Row) -> Row:
    where = "SwiftShader, a GPU in software"
    try:
        more = install.webgpu()
    except Absent as reason:
        return row._replace(processor=where, absent=str(reason))
    return row._replace(processor=where, environment=row.environment | more, slow=True)


def default_run() -> Path:
    """The bundled model's folder; UsageError where it has no int8 weights."""
    zoo = Path(registry.__file__).parent / "zoo" / "nyud_edge"
    if not (zoo / convert.INT8).is_file():
        raise UsageError(f"{zoo} has no {convert.INT8}: name a run folder")
    return zoo
