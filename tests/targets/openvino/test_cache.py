"""A compiled model that was kept computes the same bits, and is never of another artifact, version or machine."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgemtl.device import processor
from edgemtl.targets.openvino import cache, target
from tests import toy

ov = pytest.importorskip("openvino")

pytestmark = pytest.mark.slow
MANIFEST = SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE)


@pytest.fixture(scope="module")
def artifacts(converted: Callable[..., Path]) -> dict[str, Path]:
    return {precision: converted("openvino", precision) for precision in ("fp32", "int8")}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that compiled models are kept in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgemtl" / "openvino"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names the files that are compiled, one by one."""
    found: list[str] = []

    class Core(ov.Core):
        def compile_model(self, model: Path, *rest: object) -> object:
            found.append(str(model))
            return super().compile_model(model, *rest)

    monkeypatch.setattr(ov, "Core", Core)
    return found


@pytest.mark.parametrize("device", ["CPU", "CPU:bf16", "CPU:float"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_second_start_compiles_nothing_and_computes_the_same_bits(
    precision: str, device: str, artifacts: dict[str, Path], kept: Path, compilations: list[str]
) -> None:
    first, second = (target.open(artifacts[precision], MANIFEST, device) for _ in range(2))
    assert len(compilations) == 1 and first.device == second.device
    for frame in toy.frames():
        wanted, found = first(frame), second(frame)
        for task, map in wanted.items():
            assert map.tobytes() == found[task].tobytes(), task
    option = "INFERENCE_PRECISION_HINT"
    assert first.compiled.get_property(option) == second.compiled.get_property(option)


def test_a_changed_artifact_is_compiled_anew(
    artifacts: dict[str, Path], kept: Path, compilations: list[str], tmp_path: Path
) -> None:
    folder = shutil.copytree(artifacts["fp32"], tmp_path / "own")
    before = target.open(folder, MANIFEST)(toy.frames()[0])
    weights = (folder / "model.bin").read_bytes()
    bias, other = (np.float32(value).tobytes() for value in (1.5, 2.5))  # of depth
    assert bias in weights
    (folder / "model.bin").write_bytes(weights.replace(bias, other))  # as large
    shutil.copystat(artifacts["fp32"] / "model.bin", folder / "model.bin")  # and as old
    after = target.open(folder, MANIFEST)(toy.frames()[0])
    assert len(compilations) == 2 and not np.array_equal(before["depth"], after["depth"])
    # The same files elsewhere are the same model.
    target.open(shutil.copytree(folder, tmp_path / "elsewhere"), MANIFEST)
    assert len(compilations) == 2


@pytest.mark.parametrize("what", ["version", "instructions", "threads", "limit"])
def test_another_runtime_or_machine_compiles_anew(
    what: str, artifacts: dict[str, Path], kept: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target.open(artifacts["fp32"], MANIFEST)
    if what == "version":
        monkeypatch.setattr(ov, "get_version", lambda: "2027.0.0-1")
    elif what == "instructions":
        monkeypatch.setattr(processor, "describe_instructions", lambda: "AVX2, AVX_VNNI")
    elif what == "threads":
        monkeypatch.setenv("EDGEMTL_THREADS", "1")
    else:
        monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "bf16")
    target.open(artifacts["fp32"], MANIFEST)
    assert len(compilations) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "foreign"])
def test_a_damaged_one_is_compiled_anew(
    damage: str, artifacts: dict[str, Path], kept: Path, compilations: list[str]
) -> None:
    wanted = target.open(artifacts["int8"], MANIFEST)(toy.frames()[0])
    [file] = kept.glob("*.blob")
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    damaged = {"cut": content[:-100], "changed": content, "empty": b"", "foreign": _sealed(b"nothing" * 99)}
    file.write_bytes(bytes(damaged[damage]))
    found = target.open(artifacts["int8"], MANIFEST)(toy.frames()[0])
    assert len(compilations) == 2 and np.array_equal(wanted["depth"], found["depth"])
    target.open(artifacts["int8"], MANIFEST)
    assert len(compilations) == 2  # it was replaced


def _sealed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def test_only_the_newest_are_kept(
    artifacts: dict[str, Path], kept: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target.open(artifacts["fp32"], MANIFEST)
    [file] = kept.iterdir()
    monkeypatch.setattr(cache, "BYTES", file.stat().st_size * 5 // 2)
    for device in ("CPU:bf16", "CPU:f32:throughput"):
        target.open(artifacts["fp32"], MANIFEST, device)
    assert len(list(kept.iterdir())) == 2
    target.open(artifacts["fp32"], MANIFEST, "CPU:f32:throughput")
    assert len(compilations) == 3
    target.open(artifacts["fp32"], MANIFEST)
    assert len(compilations) == 4


def test_it_opens_where_nothing_can_be_kept(
    artifacts: dict[str, Path], kept: Path, read_only: None, compilations: list[str]
) -> None:
    for _ in range(2):
        assert target.open(artifacts["fp32"], MANIFEST)(toy.frames()[0])["depth"].shape == (24, 32)
    assert len(compilations) == 2
