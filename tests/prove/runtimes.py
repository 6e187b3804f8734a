"""The rows of the table: which runtime on which processor, and how its runner is started."""

import os
import shutil
import sys
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import torch

from edgemtl import bundled
from edgemtl.deployment import convert, equality
from edgemtl.ground.errors import CheckFailed
from edgemtl.ground.files import sha256
from edgemtl.quantization import proof, weights
from edgemtl.records import artifact
from edgemtl.records.run import Run
from edgemtl.targets.onnx import FILE, WEBGPU
from edgemtl.targets.openvino import XML
from edgemtl.targets.tensorrt import devices
from tests.prove import install, probe, processors
from tests.prove.install import Absent
from tests.prove.processors import Processor

# Artifacts by name: target and settings. Those of HALF have float16 between int8 layers.
ARTIFACTS = {
    "openvino": ("openvino", {}),
    "onnx": ("onnx", {}),
    "tensorrt": ("tensorrt", {"arithmetic": "float32"}),
    "coreml": ("coreml", {"arithmetic": "float32"}),
    "tensorrt16": ("tensorrt", {"arithmetic": "float16"}),
    "coreml16": ("coreml", {"arithmetic": "float16"}),
}
HALF = ("tensorrt16", "coreml16")
# What torch's own kernels obey, beside oneDNN's, which obey the cap.
ATEN = {"AVX512_CORE_VNNI": "avx512", "AVX512_CORE": "avx512", "AVX2_VNNI": "avx2", "AVX2": "avx2"}
FLOAT16 = "sums are rounded to float16 before they are quantized again"
ACL = "ARM Compute Library rounds up from the middle between two codes; the target takes float kernels there"
LITERT = (
    "its own int8 layers round twice, each time half up, so that the middle between two codes and what is one product "
    "below it go to the upper one; its delegate XNNPACK rounds once, half to even"
)
FRAMES, RESULTS = "{frames}", "{results}"  # in a row's command, where their paths go


class Row(NamedTuple):
    """One line of the table."""

    runtime: str
    processor: str
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    slow: bool = False  # emulated, so few frames
    differs: str = ""  # why equality is not asked for
    absent: str = ""  # why it cannot be started here
    judge: bool = False  # of a runtime that is no target


def proved(run: Path) -> tuple[set[str], tuple[str, ...]]:
    """The names of the quantizers whose codes depend on no island, and the tasks whose maps are exact."""
    deployed = weights.load(run, "int8")
    size = Run(run).recipe.size
    found = proof.prove(deployed, torch.zeros(1, 3, *size))
    return equality.certain(deployed, found), found.exact


def artifacts(run: Path, work: Path, names: tuple[str, ...] = tuple(ARTIFACTS)) -> dict[str, Path | str]:
    """Folders of the run's int8 artifacts, by these names in ARTIFACTS, or why there is none.

    One that lies in the run, of these weights and settings, is taken; any other is converted into `work`.
    """
    weights = sha256(Run(run).need("int8"))
    made: dict[str, Path | str] = {}
    for name in names:
        target, options = ARTIFACTS[name]
        folder = Run(run).artifact(target)
        if (folder / artifact.FILE).is_file():
            manifest = artifact.read(folder)
            if manifest.weights_sha256 == weights and all(manifest.options.get(key) == options[key] for key in options):
                made[name] = folder
                continue
        copy = work / "runs" / name
        copy.mkdir(parents=True)
        for file in filter(Path.is_file, run.iterdir()):
            shutil.copyfile(file, copy / file.name)
        try:
            made[name] = convert.convert(copy, target=target, settings=[f"{k}={v}" for k, v in options.items()])
        except CheckFailed as problem:
            if name not in HALF:
                raise
            made[name] = str(problem)
    return made


def probed(made: dict[str, Path | str], work: Path) -> dict[str, Path | str]:
    """The files of artifacts with their quantizers as outputs, by the names of artifacts, and "webgpu"."""
    tasks = list(artifact.read(Path(made["openvino"])).tasks)
    sources = {
        "onnx": ("onnx", FILE),
        "webgpu": ("onnx", WEBGPU),
        "tensorrt": ("tensorrt", devices.ONNX),
        "tensorrt16": ("tensorrt16", devices.TYPED),
    }
    found: dict[str, Path | str] = {"openvino": probe.openvino(Path(made["openvino"]) / XML, work / "openvino", tasks)}
    for name, (source, file) in sources.items():
        folder = made[source]
        found[name] = folder if isinstance(folder, str) else probe.onnx(folder / file, work / name, tasks)
    return found


def rows(run: Path, made: dict[str, Path | str], files: dict[str, Path | str]) -> Iterator[Row]:
    """Every row, in the order of the table; the first is torch on this machine, the reference."""
    native, capped = processors.native(), processors.capped()
    avx2 = _or_reason(processors.avx2, "AVX2 without VNNI, QEMU")
    aarch64 = _or_reason(processors.aarch64, "AArch64, QEMU")

    def row(
        runtime: str, processor: Processor | Row, runner: str, where: Path | str, *how: str, differs: str = ""
    ) -> Row:
        if isinstance(processor, Row):
            return processor._replace(runtime=runtime)
        if isinstance(where, str):
            return Row(runtime, processor.name, differs=differs, absent=where)
        command = (*processor.command, "-m", f"tests.prove.runners.{runner}", str(where), FRAMES, RESULTS, *how)
        environment = dict(processor.environment)
        if runner == "torch_reference" and processor.kind == "capped":
            environment["ATEN_CPU_CAPABILITY"] = ATEN[environment[processors.CAP]]
        slow = processor.kind == "emulated"
        return Row(runtime, processor.name, command, processors.environment(environment), slow, differs)

    for processor in (native, *capped, avx2):
        yield row("torch", processor, "torch_reference", run)
    for kernels in ("int8", "float"):
        for processor in (native, *capped, avx2, aarch64):
            differs = ACL if kernels == "int8" and processor is aarch64 else ""
            name = f"OpenVINO, {kernels} kernels"
            yield row(name, processor, "openvino_cpu", files["openvino"], kernels, differs=differs)
    for level, word in (("all", "optimised"), ("none", "not optimised")):
        for processor in (native, avx2, aarch64):
            yield row(f"ONNX Runtime, {word}", processor, "onnxruntime_cpu", files["onnx"], level)
    yield _web(Path(files["onnx"]))
    webgpu = files["webgpu"]
    yield _webgpu(row("WebGPU form, on WebGPU", native, "onnxruntime_cpu", webgpu, "webgpu"))
    yield row("WebGPU form, on the CPU", native, "onnxruntime_cpu", webgpu, "none")
    for kind in ("", "16"):
        differs, word = (FLOAT16, "with float16") if kind else ("", "with float32")
        name = f"Core ML package {word}, evaluator"
        yield row(name, native, "coreml_evaluator", made[f"coreml{kind}"], "declared", differs=differs)
        name = f"TensorRT's file {word}, stand-in"
        yield row(name, native, "onnxruntime_cpu", files[f"tensorrt{kind}"], "none", differs=differs)


def reference(run: Path) -> Row:
    """Torch on this machine as it is."""
    command = (sys.executable, "-m", "tests.prove.runners.torch_reference", str(run), FRAMES, RESULTS)
    return Row("torch", "native", command, processors.environment({}))


def judges(run: Path | str, work: Path, fetch: bool = True) -> Iterator[Row]:
    """The rows of runtimes that are no targets; `work` keeps what they convert, `fetch` allows to install them."""
    ways = (
        ("executorch", "ExecuTorch with XNNPACK, {} kernels", "executorch_xnnpack", (), ""),
        ("litert", "LiteRT with XNNPACK, {} kernels", "litert", ("xnnpack",), ""),
        ("litert", "LiteRT without XNNPACK, {} kernels", "litert", ("own",), LITERT),
    )
    for runtime, name, runner, how, rounding in ways:
        for kernels in ("float", "int8"):
            row = Row(name.format(kernels), "native", differs=rounding if kernels == "int8" else "", judge=True)
            try:
                environment = processors.environment(install.judge(runtime, fetch))
            except Absent as reason:
                yield row._replace(absent=str(reason))
                continue
            words = (sys.executable, "-m", f"tests.prove.runners.{runner}", str(run), FRAMES, RESULTS, str(work))
            yield row._replace(command=(*words, kernels, *how), environment=environment)


def _or_reason(find: Callable[[], Processor], name: str) -> Processor | Row:
    """The processor, or a row that says why there is none."""
    try:
        return find()
    except Absent as reason:
        return Row("", name, absent=str(reason))


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
    """The bundled model's folder."""
    return bundled.run(bundled.DEFAULT)
