"""Building, keeping and running engines. TensorRT-RTX builds for real; what needs a GPU runs on a small model of it."""

import ctypes
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemtl.ground.errors import UsageError
from edgemtl.targets.tensorrt import engine, parser, target
from edgemtl.targets.tensorrt.engine import Facts

FACTS = Facts("ab" * 32, "10.3.0", "Orin", "8.7", "int8")
SIZE = (4, 6)


# ---- building, by TensorRT-RTX


@pytest.fixture(scope="module")
def rtx() -> Any:
    """TensorRT-RTX under the version number of the TensorRT whose interface it has."""
    if parser.missing():
        pytest.skip(str(parser.missing()))
    pytest.importorskip("onnx")
    import tensorrt_rtx

    return SimpleNamespace(**{**vars(tensorrt_rtx), "__version__": "11.4.1"})


def test_an_engine_is_built_from_a_file_with_a_cap_on_memory(rtx: Any, tmp_path: Path) -> None:
    import onnx

    from tests.targets.tensorrt import models as m

    onnx.save(m.conv(), tmp_path / "m.onnx")
    log = rtx.Logger(rtx.Logger.ERROR)
    # No timing cache: with one, TensorRT-RTX looks for a GPU.
    plan = engine.build(rtx, tmp_path / "m.onnx", "int8", engine.LEAST_MEMORY, None, log)
    assert len(plan) > 1000
    plain = engine.build(rtx, tmp_path / "m.onnx", "fp32", engine.LEAST_MEMORY, None, log)
    assert len(plain) > 1000
    place = tmp_path / "kept"
    engine.store(place, FACTS, plan)
    assert engine.load(place, FACTS) == (plan, "")


def test_a_refused_file_is_told_in_tensorrts_words(rtx: Any, tmp_path: Path) -> None:
    import onnx

    from tests.targets.tensorrt import models as m

    onnx.save(m.conv(zero=np.int8(3)), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="does not take .*m.onnx: .*zero point"):
        engine.build(rtx, tmp_path / "m.onnx", "int8", engine.LEAST_MEMORY, None, rtx.Logger(rtx.Logger.INTERNAL_ERROR))


class Old:
    """TensorRT 8.6 as far as building goes: it notes what it is asked for."""

    __version__ = "8.6.2"
    NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    BuilderFlag = SimpleNamespace(FP16="fp16", INT8="int8", OBEY_PRECISION_CONSTRAINTS="obey", TF32="tf32")
    LayerType = SimpleNamespace(CONSTANT="constant", SHUFFLE="shuffle", GRID_SAMPLE="grid", CONVOLUTION="conv")
    float32 = "float32"

    def __init__(self) -> None:
        kinds = {"/net/conv": "conv", "/net/coordinates/Add": "sum", "/net/coordinates/base": "constant", "/s": "grid"}
        self.layers = [SimpleNamespace(name=name, type=kind, precision=None) for name, kind in kinds.items()]
        self.network = SimpleNamespace(num_layers=len(self.layers), get_layer=lambda index: self.layers[index])
        self.flags: list[str] = []
        self.memory: dict[str, int] = {}
        self.timed: list[bytes] = []

    def Builder(self, log: Any) -> Any:
        cache = SimpleNamespace(serialize=lambda: b"measured")
        config = SimpleNamespace(
            set_flag=self.flags.append,
            clear_flag=lambda flag: self.flags.append(f"no {flag}"),
            set_memory_pool_limit=lambda pool, size: self.memory.update({pool: size}),
            create_timing_cache=lambda old: self.timed.append(old) or cache,
            set_timing_cache=lambda cache, ignore: None,
        )
        return SimpleNamespace(
            create_network=lambda flags: self.network,
            create_builder_config=lambda: config,
            build_serialized_network=lambda network, config: bytearray(b"plan"),
        )

    def OnnxParser(self, network: Any, log: Any) -> Any:
        return SimpleNamespace(parse_from_file=lambda file: True)


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("int8", ["fp16", "int8", "obey"]), ("fp16", ["fp16", "obey"]), ("fp32", ["no tf32"])],
)
def test_before_release_10_precision_is_flags_and_positions_are_held_in_float32(
    precision: str, flags: list[str], tmp_path: Path
) -> None:
    trt, timing = Old(), tmp_path / "timing.cache"
    assert engine.build(trt, tmp_path / "m.onnx", precision, 1 << 30, timing, None) == b"plan"
    assert trt.flags == flags and trt.memory == {"workspace": 1 << 30}
    held = {layer.name for layer in trt.layers if layer.precision == "float32"}
    assert held == (set() if precision == "fp32" else {"/net/coordinates/Add", "/s"})
    engine.build(trt, tmp_path / "m.onnx", precision, 1 << 30, timing, None)
    assert trt.timed == [b"", b"measured"]


# ---- keeping


def test_a_name_says_what_an_engine_is_of() -> None:
    assert FACTS._replace(gpu="NVIDIA Thor (x)").file == "abababababab-trt10.3.0-nvidia-thor-x-sm8.7-int8.engine"
    others = [FACTS._replace(**{field: "other"}).file for field in Facts._fields]
    assert len({FACTS.file, *others}) == len(Facts._fields) + 1


def test_none_yet(tmp_path: Path) -> None:
    assert engine.load(tmp_path / "nowhere", FACTS) == (None, "there is none yet")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tensorrt": "11.4.1"}, "the one here was built by TensorRT 10.3.0, this machine has 11.4.1"),
        ({"gpu": "Thor", "sm": "11.0"}, "the one here was built for Orin (SM 8.7), this is Thor (SM 11.0)"),
        ({"onnx": "cd" * 32}, "the one here was built from another ONNX file"),
        ({"precision": "fp16"}, "the one here computes in int8, not fp16"),
    ],
)
def test_one_that_does_not_fit_is_explained(change: dict[str, str], reason: str, tmp_path: Path) -> None:
    engine.store(tmp_path, FACTS, b"plan")
    assert engine.load(tmp_path, FACTS._replace(**change)) == (None, reason)


def test_the_nearest_of_several_is_explained(tmp_path: Path) -> None:
    engine.store(tmp_path, FACTS._replace(gpu="Thor", sm="11.0", tensorrt="10.13"), b"a")
    engine.store(tmp_path, FACTS, b"b")
    _, reason = engine.load(tmp_path, FACTS._replace(tensorrt="11.4.1"))
    assert reason == "the one here was built by TensorRT 10.3.0, this machine has 11.4.1"


@pytest.mark.parametrize("damage", ["engine", "json", "facts"])
def test_a_damaged_one_is_not_loaded(damage: str, tmp_path: Path) -> None:
    engine.store(tmp_path, FACTS, b"plan")
    path = tmp_path / FACTS.file
    if damage == "engine":
        path.write_bytes(b"plxn")
    elif damage == "json":
        path.with_suffix(".json").write_text("{")
    else:  # one renamed by hand
        said = json.loads(path.with_suffix(".json").read_text()) | {"sm": "8.9"}
        path.with_suffix(".json").write_text(json.dumps(said))
    plan, reason = engine.load(tmp_path, FACTS)
    assert plan is None and ("damaged" in reason or "SM 8.9" in reason)


def test_an_engine_without_its_facts_was_not_finished(tmp_path: Path) -> None:
    engine.store(tmp_path, FACTS, b"plan")
    (tmp_path / FACTS.file).with_suffix(".json").unlink()
    assert engine.load(tmp_path, FACTS)[0] is None


def test_half_of_the_free_memory_is_taken() -> None:
    assert engine.workspace_bytes(1 << 30) == 1 << 29
    assert engine.workspace_bytes(0) == engine.LEAST_MEMORY
    assert engine.workspace_bytes(1 << 60) < 1 << 60


# ---- opening, on a model of TensorRT and CUDA


class Cuda:
    """CUDA's runtime with the computer's own memory in the GPU's place."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return 0, 1

    def cudaGetDeviceProperties(self, _: int) -> tuple[int, Any]:
        return 0, SimpleNamespace(name=b"Orin", major=8, minor=7)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return 0, 1 << 32, 1 << 33

    def cudaStreamCreate(self) -> tuple[int, int]:
        return 0, 7

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0 if stream == 7 else 400,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[int]:
        return (0 if self.memory.pop(address, None) else 1,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        block = self.memory.get(to) or self.memory[source]
        assert size == len(block)
        ctypes.memmove(to, source, size)
        return (0,)


class Engine:
    """Takes frames of SIZE; depth is the mean colour of each pixel, semseg the channel 0."""

    shapes = {"frame": (1, *SIZE, 3), "semseg": (1, *SIZE), "depth": (1, *SIZE)}
    types = {"frame": np.uint8, "semseg": np.int32, "depth": np.float32}

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}

    def create_execution_context(self) -> "Engine":
        return self

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> type:
        return self.types[name]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        def at(name: str) -> np.ndarray:
            size = int(np.prod(self.shapes[name])) * np.dtype(self.types[name]).itemsize
            block = (ctypes.c_char * size).from_address(self.addresses[name])
            return np.frombuffer(block, self.types[name]).reshape(self.shapes[name])

        at("depth")[:] = at("frame").mean(-1)
        at("semseg")[:] = at("frame")[..., 0]
        return stream == 7


class Logger:
    WARNING = 2

    def __init__(self, level: int) -> None:
        pass


class Runtime:
    def __init__(self, log: Logger) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        return Engine() if plan.startswith(b"good") else None


MANIFEST = SimpleNamespace(tasks={"semseg": None, "depth": None}, size=SIZE, precision="int8")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with TensorRT and a GPU; `built` counts engines, each of `plan`."""
    trt = SimpleNamespace(__version__="10.3.0", Logger=Logger, Runtime=Runtime, nptype=lambda kind: kind)
    made = SimpleNamespace(trt=trt, built=[], plan=b"good engine", cuda=Cuda())

    def build(trt: Any, file: Path, precision: str, memory: int, timing: Path, log: Any, half: bool) -> bytes:
        made.built.append((file.name, precision, timing.name))
        return made.plan

    find, load = engine.find_spec, engine.import_module
    monkeypatch.setattr(engine, "find_spec", lambda name: object() if name == "tensorrt" else find(name))
    monkeypatch.setattr(engine, "import_module", lambda name: trt if name == "tensorrt" else load(name))
    monkeypatch.setattr(engine, "_cuda", lambda: made.cuda)
    monkeypatch.setattr(engine, "build", build)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "artifact"
    made.mkdir()
    (made / "model.onnx").write_bytes(b"one")
    (made / "model.fp16.onnx").write_bytes(b"two")
    return made


def test_the_first_opening_builds_and_the_second_loads(
    machine: SimpleNamespace, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = target.open(folder, MANIFEST)
    assert session.how == "executed" and session.device == "Orin (SM 8.7), TensorRT 10.3.0, int8"
    assert machine.built == [("model.fp16.onnx", "int8", "timing-trt10.3.0-sm8.7.cache")]
    assert "building the engine, minutes: there is none yet" in " ".join(capsys.readouterr().err.split())
    kept = folder / f"{hashlib.sha256(b'two').hexdigest()[:12]}-trt10.3.0-orin-sm8.7-int8.engine"
    assert kept.read_bytes() == b"good engine"
    target.open(folder, MANIFEST, "tensorrt")
    assert len(machine.built) == 1


def test_before_release_10_the_file_and_not_its_twin_is_built(machine: SimpleNamespace, folder: Path) -> None:
    machine.trt.__version__ = "8.6.2"
    target.open(folder, MANIFEST)
    assert machine.built[0][0] == "model.onnx"


def test_a_new_tensorrt_builds_again_and_says_why(
    machine: SimpleNamespace, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target.open(folder, MANIFEST)
    machine.trt.__version__ = "11.4.1"
    target.open(folder, MANIFEST)
    assert len(machine.built) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the one here was built by TensorRT 10.3.0, this machine has 11.4.1" in said


def test_a_damaged_engine_is_built_again(machine: SimpleNamespace, folder: Path) -> None:
    target.open(folder, MANIFEST)
    [kept] = folder.glob("*.engine")
    kept.write_bytes(b"good, but not ours")
    target.open(folder, MANIFEST)
    assert len(machine.built) == 2 and kept.read_bytes() == b"good engine"


def test_an_engine_that_tensorrt_does_not_load_is_built_again_and_once_more_is_an_error(
    machine: SimpleNamespace, folder: Path
) -> None:
    machine.plan = b"bad"
    with pytest.raises(UsageError, match="does not load the engine it just built"):
        target.open(folder, MANIFEST)
    machine.plan = b"good"
    target.open(folder, MANIFEST)
    assert len(machine.built) == 2


def test_where_the_artifact_cannot_be_written_the_users_cache_is(
    machine: SimpleNamespace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    target.open(folder, MANIFEST)
    assert not list(folder.glob("*.engine"))
    assert len(list((tmp_path / "cache" / "edgemtl" / "engines").rglob("*.engine"))) == 1
    target.open(folder, MANIFEST)
    assert len(machine.built) == 1


def test_a_signed_artifact_stays_as_it_is(
    machine: SimpleNamespace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (folder / "model.sig").write_text("{}")
    before = sorted(folder.iterdir())
    target.open(folder, MANIFEST)
    assert sorted(folder.iterdir()) == before
    target.open(folder, MANIFEST)
    assert len(machine.built) == 1


def test_maps_are_what_the_engine_left_in_its_buffers(machine: SimpleNamespace, folder: Path) -> None:
    session = target.open(folder, MANIFEST)
    frames = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    first = session(frames[0][:, ::-1])
    second = session(frames[1])
    np.testing.assert_allclose(first["depth"], frames[0][:, ::-1].mean(-1), rtol=1e-6)
    np.testing.assert_array_equal(first["semseg"], frames[0][:, ::-1, 0])
    np.testing.assert_array_equal(second["semseg"], frames[1][..., 0])
    assert first["semseg"].dtype == np.int32 and first["depth"].shape == SIZE
    del session
    assert not machine.cuda.memory


def test_every_thread_gets_the_maps_of_its_own_frame(
    machine: SimpleNamespace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Engine.execute_async_v3
    monkeypatch.setattr(Engine, "execute_async_v3", lambda *given: time.sleep(1e-3) or run(*given))
    session = target.open(folder, MANIFEST)
    frames = np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        for frame, made in zip(np.tile(frames, (10, 1, 1, 1)), pool.map(session, np.tile(frames, (10, 1, 1, 1)))):
            np.testing.assert_array_equal(made["semseg"], frame[..., 0])


def test_a_failure_of_cuda_is_told(machine: SimpleNamespace, folder: Path) -> None:
    machine.cuda.cudaMalloc = lambda size: (2, None)
    with pytest.raises(RuntimeError, match="cudaMalloc answered 2"):
        target.open(folder, MANIFEST)


# ---- where something is missing


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="TensorRT cannot run here: TensorRT is not installed"):
        target.open(tmp_path, MANIFEST, "TensorRT")
    monkeypatch.setattr(engine, "find_spec", lambda name: object())
    load = engine.import_module
    monkeypatch.setattr(engine, "import_module", lambda name: object() if name == "tensorrt" else load(name))
    monkeypatch.setattr(engine, "_cuda", lambda: None)
    with pytest.raises(UsageError, match="libcudart.so, CUDA's runtime, is missing"):
        target.open(tmp_path, MANIFEST, "TensorRT")
    monkeypatch.setattr(engine, "_cuda", lambda: SimpleNamespace(cudaGetDeviceCount=lambda: (35, 0)))
    with pytest.raises(UsageError, match="CUDA finds no GPU"):
        target.open(tmp_path, MANIFEST, "TensorRT")
