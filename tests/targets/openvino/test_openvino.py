"""What an OpenVINO artifact holds on disk, and the rewriting that makes it fast."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemtl.ground.errors import UsageError
from edgemtl.records.target import Original
from edgemtl.targets.openvino import session, target
from tests import toy

ov = pytest.importorskip("openvino")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
MANIFEST = SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("int8")
    target.convert(
        Original(toy.deployed("int8"), toy.SIZE, toy.TASKS, "int8", {"recipe": "toy", "tasks": '{"depth": {}}'}), made
    )
    return made


@pytest.fixture(scope="module")
def nodes(folder: Path) -> list:
    return ov.Core().read_model(folder / "model.xml").get_ordered_ops()


def test_nobody_is_told_of_imports_and_conversions() -> None:
    code = "import edgemtl, openvino; from openvino.tools.ovc import telemetry_utils as told; print(told.tm.__name__)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout == "openvino.tools.ovc.telemetry_stub\n", ended.stderr


def test_weights_take_one_byte_each(nodes: list) -> None:
    layers = [toy.deployed("fp32").network.get_submodule(name) for name in toy.LAYERS]
    weights = sum(layer.weight.numel() for layer in layers)
    constants = [node for node in nodes if node.get_type_name() == "Constant"]
    assert sum(n.get_byte_size() for n in constants if n.get_element_type() == ov.Type.i8) == weights


def test_metadata_is_inside(folder: Path) -> None:
    model = ov.Core().read_model(folder / "model.xml")
    assert model.get_rt_info(["edgemtl", "recipe"]).astype(str) == "toy"
    assert model.get_rt_info(["edgemtl", "tasks"]).astype(str) == '{"depth": {}}'


def test_the_camera_frame_goes_in(folder: Path) -> None:
    model = ov.Core().read_model(folder / "model.xml")
    assert model.input("frame").get_element_type() == ov.Type.u8
    assert list(model.input("frame").get_shape()) == [1, *toy.SIZE, 3]


def test_argmax_is_not_stable_and_narrow_maps_are_not_interpolated(nodes: list) -> None:
    ties = [node.get_attributes()["stable"] for node in nodes if node.get_type_name() == "TopK"]
    assert ties == [False]
    wide = [node.input_value(0).get_shape()[1] for node in nodes if node.get_type_name() == "Interpolate"]
    assert wide == [len(toy.CLASSES)]


def test_arithmetic_and_hint_are_chosen_after_colons(folder: Path) -> None:
    assert target.open(folder, MANIFEST).device == "CPU (f32, latency)"
    assert target.open(folder, MANIFEST, "cpu:bf16").device == "CPU (bf16, latency)"
    session = target.open(folder, MANIFEST, "CPU:f32:throughput")
    assert session.device == "CPU (f32, throughput)"
    assert str(session.compiled.get_property("PERFORMANCE_HINT")).endswith("THROUGHPUT")
    assert session.compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
    auto = target.open(folder, MANIFEST, "AUTO:throughput:f32")
    assert auto.device == "AUTO (f32, throughput)" and auto(toy.frames()[0])["depth"].shape == (24, 32)


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        ("CPU:f23", "unknown arithmetic or hint 'f23'; did you mean 'f32'"),
        ("CPU:latencey", "did you mean 'latency'"),
        ("CPU:f32:f16", "'CPU:f32:f16': one arithmetic and one hint at most"),
        ("GPU.x", "'GPU.X': after the dot comes a number, as in GPU.1"),
        ("AUTO.1", "'AUTO.1': after the dot"),
        ("NPV", "unknown OpenVINO device 'NPV'; did you mean 'NPU'"),
    ],
)
def test_a_wrong_device_is_one_clear_line(folder: Path, device: str, wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted):
        target.open(folder, MANIFEST, device)


def test_gpu_and_npu_compute_in_f16_unless_told() -> None:
    assert session.parse("GPU.1") == ("GPU.1", "f16", "latency")
    assert session.parse("npu:throughput") == ("NPU", "f16", "throughput")
    assert session.parse("GPU:f32") == ("GPU", "f32", "latency")


def test_a_device_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="finds no GPU.7 .* it has CPU"):
        target.open(folder, MANIFEST, "GPU.7")


def test_threads_come_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEMTL_THREADS", "1")
    assert target.open(folder, MANIFEST).compiled.get_property("INFERENCE_NUM_THREADS") == 1
    monkeypatch.setenv("EDGEMTL_THREADS", "many")
    with pytest.raises(UsageError, match="EDGEMTL_THREADS='many'"):
        target.open(folder, MANIFEST)


def test_on_arm_int8_is_computed_in_float_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # ARM Compute Library's int8 kernels round up from the middle between two codes; torch and all others to even.
    from edgemtl.device import processor

    target.convert(Original(toy.deployed("int8"), toy.SIZE, toy.TASKS, "int8"), tmp_path)
    monkeypatch.setattr(processor, "arm", lambda: True)
    monkeypatch.setattr(processor, "x86", lambda: False)
    session = target.open(tmp_path, MANIFEST)
    assert session.device == "CPU (float, latency)"
    said = capsys.readouterr().err
    assert "round up from the middle between two codes; taking CPU:float, slower" in " ".join(said.split())
    assert "compute in float" in target.int8()


def test_on_arm_float_artifacts_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgemtl.device import processor

    target.convert(Original(toy.deployed("fp32"), toy.SIZE, toy.TASKS, "fp32"), tmp_path)
    monkeypatch.setattr(processor, "arm", lambda: True)
    monkeypatch.setattr(processor, "x86", lambda: False)
    assert target.open(tmp_path, MANIFEST).device == "CPU (f32, latency)"
