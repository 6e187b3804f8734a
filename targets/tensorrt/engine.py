"""The TensorRT engine of an artifact: built on the device when it is first opened, kept, and run without torch.

An engine belongs to one TensorRT, one GPU and one ONNX file, and its file is named after them. A JSON file beside it
holds these facts in full and the engine's SHA-256, so that no other's or damaged engine is ever loaded.
"""

import hashlib
import os
import re
import threading
import time
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_json, replacing, sha256, user_cache, write_json
from edgemtl.ground.signing import SIGNATURE
from edgemtl.ground.stop import Stop
from edgemtl.records.artifact import Manifest
from edgemtl.records.target import How, Session
from edgemtl.targets.tensorrt import cuda, devices

CUDA = ("cuda.bindings.runtime", "cuda.cudart")  # cuda-python since 12.6, and before
LEAST_MEMORY = 256 << 20  # bytes of workspace; with less hardly any tactic is left


class Facts(NamedTuple):
    """What an engine depends on."""

    onnx: str  # SHA-256 of the file
    tensorrt: str
    gpu: str
    sm: str
    precision: str

    @property
    def file(self) -> str:
        """The engine's file name."""
        gpu = re.sub(r"\W+", "-", self.gpu).strip("-").lower()
        return f"{self.onnx[:12]}-trt{self.tensorrt}-{gpu}-sm{self.sm}-{self.precision}.engine"


def missing() -> str | None:
    """What TensorRT lacks on this machine, or None."""
    if find_spec("tensorrt") is None:
        return "TensorRT is not installed (on a Jetson it comes with JetPack: apt install python3-libnvinfer)"
    try:
        import_module("tensorrt")
    except (ImportError, OSError, RuntimeError) as error:
        return devices.unloadable(error)
    runtime = _cuda()
    if runtime is None:
        return "libcudart.so, CUDA's runtime, is missing (sudo apt install nvidia-jetpack brings it)"
    status, count = runtime.cudaGetDeviceCount()
    if int(status) or not count:
        return "CUDA finds no GPU (a container needs --runtime nvidia)"
    return None


def version() -> str:
    """Of the TensorRT that is installed."""
    return str(import_module("tensorrt").__version__)


def open_engine(folder: Path, manifest: Manifest) -> "TensorRTSession":
    """A session on this machine's GPU. An engine that does not fit is built again, with one line saying why."""
    trt, runtime = import_module("tensorrt"), _cuda()
    half = (folder / devices.TYPED).is_file()
    file = folder / devices.file(manifest.precision, trt.__version__, half)
    name, sm, free = _gpu(runtime)
    facts = Facts(sha256(file), trt.__version__, name, sm, manifest.precision)
    signed = (folder / SIGNATURE).is_file()  # such a folder stays as it is
    name_of_folder = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    place = folder if os.access(folder, os.W_OK) and not signed else user_cache() / "engines" / name_of_folder
    log = trt.Logger(trt.Logger.WARNING)
    plan, reason = load(place, facts)
    engine = plan and trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        show.note(f"tensorrt: building the engine, minutes: {reason or 'it does not load'}")
        timing = place / f"timing-trt{facts.tensorrt}-sm{sm}.cache"
        plan = build(trt, file, manifest.precision, workspace_bytes(free), timing, log, half)
        store(place, facts, plan)
        engine = trt.Runtime(log).deserialize_cuda_engine(plan)
        if engine is None:
            raise UsageError(f"TensorRT does not load the engine it just built from {file}")
    device = f"{name} (SM {sm}), TensorRT {trt.__version__}, {manifest.precision}"
    return TensorRTSession(trt, runtime, engine, list(manifest.tasks), device)


# ---- keeping


def load(place: Path, facts: Facts) -> tuple[bytes | None, str]:
    """The engine kept for these facts, or None and, in a sentence, why there is none that fits."""
    path = place / facts.file
    about = path.with_suffix(".json")
    if path.is_file() and about.is_file():
        with suppress(UsageError, KeyError, TypeError, OSError):
            plan, kept = path.read_bytes(), read_json(about)
            if {key: kept[key] for key in facts._fields} != facts._asdict():
                return None, _difference(kept, facts)
            if hashlib.sha256(plan).hexdigest() == kept["engine"]:
                return plan, ""
        return None, f"{path.name} is damaged"
    others = []
    for other in sorted(place.glob("*.json")) if place.is_dir() else []:
        with suppress(UsageError, KeyError, TypeError):
            kept = read_json(other)
            differing = sum(kept[key] != value for key, value in facts._asdict().items())
            others.append((differing, _difference(kept, facts)))
    return None, min(others)[1] if others else "there is none yet"


def _difference(said: dict[str, str], facts: Facts) -> str:
    """One sentence about the first thing in which a kept engine differs."""
    if said["gpu"] != facts.gpu or said["sm"] != facts.sm:
        return f"the one here was built for {said['gpu']} (SM {said['sm']}), this is {facts.gpu} (SM {facts.sm})"
    if said["tensorrt"] != facts.tensorrt:
        return f"the one here was built by TensorRT {said['tensorrt']}, this machine has {facts.tensorrt}"
    if said["precision"] != facts.precision:
        return f"the one here computes in {said['precision']}, not {facts.precision}"
    return "the one here was built from another ONNX file"


def store(place: Path, facts: Facts, plan: bytes) -> None:
    """Keeps an engine: first its file, then what makes it valid."""
    path = place / facts.file
    with replacing(path) as temporary:
        temporary.write_bytes(plan)
    write_json(path.with_suffix(".json"), {**facts._asdict(), "engine": hashlib.sha256(plan).hexdigest()})


# ---- building


def build(trt: Any, file: Path, precision: str, memory: int, timing: Path | None, log: Any, half: bool = True) -> bytes:
    """The serialized engine of an ONNX file, built with at most `memory` bytes of workspace.

    Without `half` everything that is not int8 stays float32. `timing` is a file of measured kernels: it is read, if it
    exists, and written back, and makes the next build of a changed model short. UsageError with TensorRT's message if
    it refuses the file.
    """
    typed = devices.major(trt.__version__) >= 10
    builder = trt.Builder(log)
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED if typed else flags.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(file)):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise UsageError(f"TensorRT {trt.__version__} does not take {file}: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, memory)
    if precision == "fp32" or not half:
        config.clear_flag(trt.BuilderFlag.TF32)
        if precision == "int8" and not typed:
            config.set_flag(trt.BuilderFlag.INT8)
    elif not typed:
        _weak(trt, network, config, precision)
    cache: Any = None
    if timing is not None:
        cache = config.create_timing_cache(timing.read_bytes() if timing.is_file() else b"")
        config.set_timing_cache(cache, False)
    started = time.monotonic()
    with Stop() as stop, show.progress() as bar:
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = _monitor(trt, bar, stop)
        else:
            bar.add_task(f"TensorRT builds {file.name}", total=None, status="")
        plan = builder.build_serialized_network(network, config)
        if plan is None and stop.asked:
            raise KeyboardInterrupt
    if plan is None:
        raise UsageError(
            f"TensorRT {trt.__version__} could not build {file} (its messages are above); free some memory?"
        )
    if timing is not None:
        with replacing(timing) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))
    show.note(f"tensorrt: built in {time.monotonic() - started:.0f} s")
    return bytes(plan)


def _weak(trt: Any, network: Any, config: Any, precision: str) -> None:
    """Precision by flags, before TensorRT 10: float16 wherever it is faster, but not where positions are computed."""
    config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        constant = layer.type in (trt.LayerType.CONSTANT, trt.LayerType.SHUFFLE)
        if layer.type == trt.LayerType.GRID_SAMPLE or ("/coordinates/" in layer.name and not constant):
            layer.precision = trt.float32


def _monitor(trt: Any, bar: Any, stop: Stop) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # tensorrt has no types
        """One bar for each phase that TensorRT is in."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.tasks: dict[str, Any] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.tasks[phase] = bar.add_task(phase, total=steps, status="")

        def step_complete(self, phase: str, step: int) -> bool:
            bar.update(self.tasks[phase], completed=step + 1)
            return not stop.asked

        def phase_finish(self, phase: str) -> None:
            bar.remove_task(self.tasks.pop(phase))

    return Monitor()


def workspace_bytes(free: int) -> int:
    """Bytes that a build may take: half of what is free on the GPU, which on a Jetson is the computer's own memory."""
    available = free
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    return max(LEAST_MEMORY, min(free, available) // 2)


# ---- running


class TensorRTSession(Session):
    """Maps of one frame at a time; threads wait for each other, because the GPU holds one frame."""

    how: How = "executed"
    float32 = False  # nothing is known of what its kernels keep between layers

    def __init__(self, trt: Any, cuda: Any, engine: Any, names: list[str], device: str) -> None:
        self.engine = engine
        self.device = device
        self._names = names
        self._cuda = cuda
        self._busy = threading.Lock()
        self._context = engine.create_execution_context()
        self._stream = _call(cuda, "cudaStreamCreate")
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, np.dtype] = {}
        self._memory: dict[str, Any] = {}
        for name in ("frame", *names):
            self._shapes[name] = tuple(engine.get_tensor_shape(name))
            self._types[name] = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            size = int(np.prod(self._shapes[name])) * self._types[name].itemsize
            self._memory[name] = _call(cuda, "cudaMalloc", size)
            self._context.set_tensor_address(name, int(self._memory[name]))

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        with self._busy:
            maps = self._run(np.ascontiguousarray(frame))
        return {name: batch[0] for name, batch in maps.items()}

    def _run(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        cuda, kind = self._cuda, self._cuda.cudaMemcpyKind
        to_device, to_host = kind.cudaMemcpyHostToDevice, kind.cudaMemcpyDeviceToHost
        _call(cuda, "cudaMemcpyAsync", self._memory["frame"], frame.ctypes.data, frame.nbytes, to_device, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise RuntimeError("TensorRT could not run the engine")
        maps = {name: np.empty(self._shapes[name], self._types[name]) for name in self._names}
        for name, map in maps.items():
            _call(cuda, "cudaMemcpyAsync", map.ctypes.data, self._memory[name], map.nbytes, to_host, self._stream)
        _call(cuda, "cudaStreamSynchronize", self._stream)
        return maps

    def __del__(self) -> None:
        for memory in getattr(self, "_memory", {}).values():
            self._cuda.cudaFree(memory)


def _cuda() -> Any:
    """CUDA's runtime, by cuda-python or by itself, or None."""
    for name in CUDA:
        with suppress(ImportError):
            return import_module(name)
    return cuda.load()


def _call(cuda: Any, name: str, *arguments: Any) -> Any:
    """The result of a function of the CUDA runtime; RuntimeError with its status if it fails."""
    status, *values = getattr(cuda, name)(*arguments)
    if int(status):
        raise RuntimeError(f"CUDA: {name} answered {getattr(status, 'name', status)}")
    return values[0] if values else None


def _gpu(cuda: Any) -> tuple[str, str, int]:
    """Name, compute capability and free bytes of the first GPU."""
    about = _call(cuda, "cudaGetDeviceProperties", 0)
    status, free, _ = cuda.cudaMemGetInfo()
    name = about.name.decode() if isinstance(about.name, bytes) else str(about.name)
    return name, f"{about.major}.{about.minor}", 0 if int(status) else int(free)
