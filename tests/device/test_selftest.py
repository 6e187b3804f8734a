"""An artifact's own test: what it stores, what it catches that nothing else does, when it runs and what it says."""

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgemtl import cli
from edgemtl.device import processor, selftest
from edgemtl.device.bench import bench
from edgemtl.device.evaluate import evaluate
from edgemtl.device.predictor import Predictor
from edgemtl.device.side_by_side import in_turns
from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.records import artifact
from tests import toy

pytestmark = pytest.mark.slow

ROOT = Path(selftest.__file__).parents[2]
INT8 = toy.deployed("int8")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in processor.CAPS:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def tested(fake_artifact: Path) -> Path:
    """An artifact that passes its test, whose target needs no runtime."""
    return store(fake_artifact)


def store(folder: Path, wrong: tuple[str, ...] = ()) -> Path:
    """Gives an artifact a test that it passes, but for the tasks in `wrong`."""
    predictor = Predictor(folder)
    frames = selftest.frames(predictor.manifest.size)
    maps = [predictor.session(frame) for frame in frames]
    for task in wrong:
        maps = [
            {**of, task: of[task][..., ::-1, :] if of[task].ndim == 3 else of[task].T.reshape(24, 32)} for of in maps
        ]
    name = selftest.write(folder, frames, maps)
    files = artifact.describe(folder, ["model.bin", name])
    artifact.write(folder, predictor.manifest.model_copy(update={"files": files}))
    return folder


def change(folder: Path, **arrays: np.ndarray) -> None:
    """Puts other arrays into the stored test."""
    with np.load(folder / artifact.SELFTEST) as stored:
        content = dict(stored)
    np.savez_compressed(folder / artifact.SELFTEST, **(content | arrays))
    toy.mend(folder)


def about(folder: Path) -> dict[str, Any]:
    with np.load(folder / artifact.SELFTEST) as stored:
        found: dict[str, Any] = json.loads(str(stored["about"]))
    return found


def verdicts(folder: Path, device: str | None = None) -> dict[str, str]:
    predictor = Predictor(folder, device)
    found = selftest.judge_session(predictor.session, predictor.manifest, selftest.read(folder, predictor.manifest))
    return {task: verdict.state for task, verdict in found.items()}


# ---- what is stored


@pytest.mark.parametrize("size", [(48, 64), (160, 224), (240, 320), (241, 321), (448, 576), (33, 640)])
def test_frames_have_the_size_and_are_always_the_same(size: tuple[int, int]) -> None:
    selftest.frames.cache_clear()  # another test may have made them without a renderer
    first = selftest.frames(size)
    selftest.frames.cache_clear()
    again = selftest.frames(size)
    assert len(first) == selftest.STORED_FRAMES
    for a, b in zip(first, again):
        assert a.shape == (*size, 3) and a.dtype == np.uint8 and a.std() > 10
        np.testing.assert_array_equal(a, b)
    assert (first[0] != first[1]).any()


def test_without_a_renderer_there_are_frames_too(monkeypatch: pytest.MonkeyPatch) -> None:
    selftest.frames.cache_clear()
    monkeypatch.setitem(sys.modules, "embreex", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        assert [frame.shape for frame in selftest.frames((48, 64))] == [(48, 64, 3)] * selftest.STORED_FRAMES
    finally:
        selftest.frames.cache_clear()


@pytest.mark.parametrize("size", [(240, 320), (448, 576)])
def test_four_tasks_fit_into_half_a_megabyte_and_bytes_do_not_depend_on_the_hour(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = selftest.frames(size)
    half = size[0] // 2, size[1] // 2
    noise = np.random.default_rng(0).random((3, *half), np.float32)  # no map is harder to compress
    maps = {"semseg": cv2.resize(frames[0][..., 0] // 7, half[::-1]).astype(np.int32), "depth": noise[0]}
    maps |= {"normals": noise, "edge": noise[1]}
    assert selftest.write(tmp_path, frames, [maps, maps]) == "selftest.npz"
    first = (tmp_path / "selftest.npz").read_bytes()
    assert len(first) < 500_000
    monkeypatch.setattr("time.time", lambda: 2e9)
    selftest.write(tmp_path, frames, [maps, maps])
    assert (tmp_path / "selftest.npz").read_bytes() == first
    assert {entry.date_time[0] for entry in zipfile.ZipFile(tmp_path / "selftest.npz").infolist()} == {1980}


def test_the_canonical_form_has_one_zero_and_one_order_of_bytes() -> None:
    assert selftest.canonical(np.array([-0.0, 1.5], ">f8")).tobytes() == np.array([0.0, 1.5], "<f4").tobytes()
    assert (
        selftest.canonical(np.array([[1, 2], [3, 4]], np.uint8).T).tobytes() == np.array([1, 3, 2, 4], "<i4").tobytes()
    )
    with pytest.raises(UsageError, match="bool is neither"):
        selftest.canonical(np.array([True]))


# ---- what it says


def test_the_same_maps_are_equal(tested: Path) -> None:
    assert set(verdicts(tested).values()) == {selftest.EQUAL}


def test_a_small_difference_is_within_bounds_unless_the_task_is_exact(tested: Path) -> None:
    said = about(tested)
    said["tasks"]["depth"]["sha256"][1] = "0" * 64  # as of a map that differs in a pixel that is not kept
    change(tested, about=np.array(json.dumps(said)))
    assert verdicts(tested)["depth"] == selftest.WITHIN
    assert selftest.selftest(tested)["tasks"]["depth"]["verdict"] == selftest.WITHIN
    toy.mend(tested, exact=("depth",))
    assert verdicts(tested)["depth"] == selftest.WRONG
    with pytest.raises(
        CheckFailed, match="depth off by 0 of its standard deviation, must be equal; close, but such maps"
    ):
        selftest.selftest(tested)


FAULTS = {
    "a[0, 0] = np.nan": "depth frame 0: NaN or infinite in 1 of 768 values",
    "a[0, 0] = np.inf": "depth frame 0: NaN or infinite in 1 of 768 values",
    "a = a[:-1]": r"depth shape \(23, 32\), torch's is \(24, 32\)",
    "a = a.astype(np.int32)": "depth int32, torch's are numbers",
    "a = -a": "depth off by .* of its standard deviation; the other tasks agree",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_map_is_named(tested: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = type(Predictor(tested).session)
    right = session.__call__

    def wrong(self: Any, frame: np.ndarray) -> dict[str, np.ndarray]:
        maps = right(self, frame)
        scope = {"np": np, "a": maps["depth"]}
        exec(fault, scope)
        return maps | {"depth": scope["a"]}

    monkeypatch.setattr(session, "__call__", wrong)
    with pytest.raises(CheckFailed, match=FAULTS[fault]):
        selftest.open_tested(tested)


def test_a_map_that_is_not_there_is_named(tested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = type(Predictor(tested).session)
    monkeypatch.setattr(session, "__call__", lambda self, frame: {})
    with pytest.raises(CheckFailed, match="semseg no such map"):
        selftest.open_tested(tested)


def test_only_class_ids(tested: Path) -> None:
    with pytest.raises(CheckFailed, match="only class ids differ, so probably an argmax or a resizing"):
        selftest.open_tested(store(tested, wrong=("semseg",)))


# ---- faults that nothing else sees: the manifest's hashes are right


@pytest.fixture(scope="module")
def onnx_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    return toy.write_artifact(tmp_path_factory.mktemp("whole") / "onnx", "onnx", INT8)


@pytest.fixture
def copy(onnx_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(onnx_artifact, tmp_path / "onnx"))


@pytest.mark.parametrize("target", ["onnx", "openvino", "tensorrt", "coreml"])
def test_every_targets_artifact_passes_its_own_test(target: str, tmp_path: Path) -> None:
    runtime = {"coreml": "coremltools", "openvino": "openvino"}.get(target, "onnxruntime")
    pytest.importorskip(runtime)
    folder = toy.write_artifact(tmp_path / target, target, INT8)
    result = selftest.selftest(folder)
    assert result["ok"] and result["frames"] == 2 and set(result["tasks"]) == set(toy.TASKS)
    assert selftest.WRONG not in verdicts(folder).values()


def test_another_rule_of_resizing(copy: Path) -> None:
    import onnx

    model = onnx.load(copy / "model.onnx")
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    for node in resizes:
        [rule] = [a for a in node.attribute if a.name == "coordinate_transformation_mode"]
        assert rule.s in (b"half_pixel", b"pytorch_half_pixel")
        rule.s = b"asymmetric"
    assert resizes
    onnx.save(model, copy / "model.onnx")
    toy.mend(copy)
    with pytest.raises(CheckFailed, match="fails its self-test on CPU"):
        selftest.open_tested(copy)


def test_weights_of_another_network(copy: Path, tmp_path: Path) -> None:
    other = toy.write_artifact(tmp_path / "other", "onnx", toy.deployed("int8", seed=4))
    (copy / "model.onnx").write_bytes((other / "model.onnx").read_bytes())
    toy.mend(copy)
    with pytest.raises(CheckFailed, match="every task differs, as it does with other weights .*; convert again"):
        selftest.open_tested(copy)


class Turned(toy.Deployed):
    """Takes frames in BGR."""

    def forward(self, frame: Any) -> Any:
        return super().forward(frame.flip(1))


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_wrong_order_of_channels(target: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if target == "openvino" else "onnxruntime")
    turned = toy.deployed("int8")
    turned.__class__ = Turned
    folder = toy.write_artifact(tmp_path / target, target, turned, INT8)
    with pytest.raises(CheckFailed, match="with red and blue exchanged it is right.*; convert again"):
        selftest.open_tested(folder)


# ---- overflow: oneDNN is kept from the instructions that this processor has, so it adds in 16 bits as old ones do

OLD = pytest.mark.skipif(
    not processor.x86() or "AVX2" not in (processor.instructions() or ()), reason="needs an x86 processor with AVX2"
)
LIMITS = ["AVX2"] + ["AVX512_CORE"] * ("AVX512BW" in (processor.instructions() or ()))
# As on a machine whose instructions were misread: nothing but the test can see the overflow.
MISREAD = "processor.overflows = lambda: False"


def limited(folder: Path, limit: str, code: str = "", device: str | None = None) -> "subprocess.CompletedProcess[str]":
    words = ["selftest", str(folder), "--json", *(["--device", device] if device else [])]
    imports = "import sys\nfrom edgemtl import cli\nfrom edgemtl.device import processor"
    program = f"{imports}\n{code}\nsys.exit(cli.main({words}))"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": limit}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8-bit weights."""
    pytest.importorskip("openvino")
    return toy.write_artifact(tmp_path_factory.mktemp("wide") / "openvino", "openvino", toy.deployed("int8", most=127))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7-bit weights."""
    pytest.importorskip("openvino")
    return toy.write_artifact(tmp_path_factory.mktemp("narrow") / "openvino", "openvino", toy.deployed("int8", most=63))


@OLD
@pytest.mark.parametrize("limit", LIMITS)
def test_an_overflow_is_caught_and_the_way_out_named(wide: Path, limit: str) -> None:
    ended = limited(wide, limit, MISREAD)
    assert ended.returncode == 1, ended.stderr
    result = json.loads(ended.stdout)
    assert result["device"] == "CPU (f32, latency)" and not result["ok"]
    assert result["tasks"]["depth"]["relative_rms"] > 0.1
    assert "the int8 kernels for this processor (AVX2" in ended.stderr
    assert "--device CPU:float computes right here" in ended.stderr and ended.stderr.count("\n") == 1
    assert limited(wide, limit, MISREAD, "CPU:float").returncode == 0


@OLD
@pytest.mark.parametrize("limit", LIMITS)
def test_weights_that_could_overflow_are_computed_in_float(wide: Path, limit: str) -> None:
    ended = limited(wide, limit)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["ok"] and result["device"] == "CPU (float, latency)"
    assert ended.stderr.startswith("openvino: 8-bit weights can overflow in the int8 kernels for this CPU (AVX2")
    assert ended.stderr.endswith("; taking CPU:float, slower\n") and ended.stderr.count("\n") == 1


@OLD
@pytest.mark.parametrize("limit", LIMITS)
def test_weights_of_7_bits_keep_their_int8_kernels(narrow: Path, limit: str) -> None:
    ended = limited(narrow, limit)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["device"] == "CPU (f32, latency)"


def test_float_on_request(wide: Path) -> None:
    from edgemtl.targets.openvino import session as openvino

    fast, careful = Predictor(wide), Predictor(wide, "CPU:float:throughput")
    assert careful.session.device == "CPU (float, throughput)"
    assert openvino._int8_products(fast.session.compiled) > 0 == openvino._int8_products(careful.session.compiled)
    assert selftest.WRONG not in verdicts(wide, "CPU:float").values()
    for wrong in ("GPU:float", "AUTO:float", "CPU:float:f32"):
        with pytest.raises(UsageError):
            Predictor(wide, wrong)


def test_an_openvino_that_keeps_its_int8_kernels_is_not_believed(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino as ov

    compile = ov.Core.compile_model

    def deaf(self: Any, model: Any, name: str, options: dict[str, Any]) -> Any:
        return compile(self, model, name, {key: value for key, value in options.items() if key != "LP_TRANSFORMS_MODE"})

    monkeypatch.setattr(ov.Core, "compile_model", deaf)
    with pytest.raises(UsageError, match="this OpenVINO does not switch its int8 kernels off"):
        Predictor(wide, "CPU:float")


# ---- when it runs


def test_it_runs_once_on_a_machine(tested: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in tested.rglob("*")}
    selftest.open_tested(tested)
    assert capsys.readouterr().err == "selftest: 6 tasks equal to torch's, 0.0 s\n"
    selftest.open_tested(tested)
    assert capsys.readouterr().err == ""
    assert {p: p.read_bytes() for p in tested.rglob("*")} == before
    assert [p.parent for p in cache.rglob("*.json")] == [cache / "edgemtl" / "selftest"]


@pytest.mark.parametrize(
    "change",
    [
        lambda patch, folder: patch.setattr(processor, "name", lambda: "another"),
        lambda patch, folder: patch.setattr(processor, "describe_instructions", lambda: "others"),
        lambda patch, folder: patch.setattr(artifact, "versions", lambda packages: {"openvino": "3000"}),
        lambda patch, folder: patch.setattr(type(Predictor(folder).session), "device", "elsewhere"),
        lambda patch, folder: toy.mend(folder, exact=("depth",)),
        lambda patch, folder: toy.mend(folder, recipe="another"),
        lambda patch, folder: ((folder / "model.bin").write_bytes(b"more"), toy.mend(folder)),
    ],
    ids=["processor", "instructions", "versions", "device", "exact", "words", "files"],
)
def test_it_runs_again_where_something_changed(
    tested: Path, change: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    selftest.open_tested(tested)
    change(monkeypatch, tested)
    capsys.readouterr()
    selftest.open_tested(tested)
    assert "selftest: 6 tasks equal" in capsys.readouterr().err


def test_a_failure_is_not_remembered(fake_artifact: Path, cache: Path) -> None:
    store(fake_artifact, wrong=("depth",))
    for _ in range(2):
        with pytest.raises(CheckFailed, match=r"depth off by .*\(--untested goes on regardless\)"):
            selftest.open_tested(fake_artifact)
        with pytest.raises(CheckFailed):
            selftest.selftest(fake_artifact)
    assert not list(cache.rglob("*.json"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ok": true}', "\xff"])
def test_a_broken_memory_is_none(tested: Path, cache: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    selftest.open_tested(tested)
    [kept] = cache.rglob("*.json")
    kept.write_bytes(content.encode("latin-1"))
    capsys.readouterr()
    selftest.open_tested(tested)
    assert "6 tasks equal" in capsys.readouterr().err


def test_without_a_cache_folder_it_runs_again(
    tested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        selftest.open_tested(tested)
        assert "6 tasks equal" in capsys.readouterr().err


def test_the_selftest_command_is_remembered_too(tested: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selftest", str(tested)]) == 0
    out, _ = capsys.readouterr()
    assert "against torch" in out and out.count("equal") == 6
    selftest.open_tested(tested)
    assert capsys.readouterr().err == ""


# ---- what was removed or edited


def test_an_artifact_without_a_test(fake_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selftest", str(fake_artifact)]) == 2
    err = capsys.readouterr().err
    assert "has no self-test" in err and err.endswith("convert again\n") and err.count("\n") == 1
    selftest.open_tested(fake_artifact)
    err = capsys.readouterr().err
    assert err == f"selftest: {fake_artifact} has none and runs untested; convert again to give it one\n"


def test_a_test_that_was_removed_or_edited_is_noticed(tested: Path) -> None:
    path = tested / artifact.SELFTEST
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(UsageError, match=r"selftest.npz was changed after the conversion"):
        selftest.open_tested(tested)
    path.unlink()
    with pytest.raises(UsageError, match="selftest.npz is missing; convert again"):
        selftest.open_tested(tested)


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"about": np.array("{}")}, "'tasks'"),
        ({"about": np.array("no JSON")}, "Expecting value"),
        ({"frames": np.zeros((2, 4, 4, 3), np.uint8)}, r"its frames are not of size \(48, 64\)"),
        ({"frames": np.zeros((0, 48, 64, 3), np.uint8)}, "its frames are not of size"),
        ({"maps/depth": np.zeros((2, 3, 3), np.float32)}, r"its maps of depth are not of shape \(24, 32\)"),
        ({"maps/depth": np.zeros((1, 24, 32), np.float32)}, "its maps of depth are not of shape"),
        ({"maps/depth": np.array([{}])}, "pickle"),
    ],
)
def test_a_test_that_was_edited_with_its_hash_is_one_line(tested: Path, content: Any, reason: str) -> None:
    change(tested, **content)
    with pytest.raises(UsageError, match=rf"selftest.npz cannot be read: .*{reason}.*; convert again"):
        selftest.open_tested(tested)


def test_maps_that_were_edited_with_their_hash(tested: Path) -> None:
    with np.load(tested / artifact.SELFTEST) as stored:
        depth = stored["maps/depth"]
    change(tested, **{"maps/depth": depth * 2})
    with pytest.raises(CheckFailed, match="depth .*, though its hash is torch's: the self-test was edited"):
        selftest.open_tested(tested)


def test_a_test_of_another_version(tested: Path) -> None:
    change(tested, about=np.array(json.dumps(about(tested) | {"format": "edgemtl selftest 9"})))
    with pytest.raises(UsageError, match="it is 'edgemtl selftest 9', this edgemtl reads"):
        selftest.open_tested(tested)


def test_a_missing_runtime_says_what_to_install(
    onnx_artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli.main(["selftest", str(onnx_artifact)]) == 2
    assert capsys.readouterr().err == 'edgemtl: onnxruntime is not installed; pip install "edgemtl[onnx]"\n'


# ---- the commands that ask for it


@pytest.fixture
def failing(fake_artifact: Path) -> Path:
    return store(fake_artifact, wrong=("depth", "semseg"))


def test_demo(failing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "frame.png"), np.zeros((48, 64, 3), np.uint8))
    words = ["demo", str(failing), "--source", str(tmp_path / "frame.png"), "--headless", "--limit", "1"]
    assert cli.main(words) == 1
    err = capsys.readouterr().err
    assert "fails its self-test on nowhere: semseg " in err and "--untested" in err and err.count("\n") == 1
    assert cli.main([*words, "--untested"]) == 0
    assert "selftest" not in capsys.readouterr().err


def test_bench(failing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckFailed, match="fails its self-test on nowhere"):
        bench(failing, seconds=0.1, warmup=0)
    assert (
        bench(failing, seconds=0.1, warmup=0, untested=True)["machine"]["instructions"]
        == processor.describe_instructions()
    )
    with pytest.raises(CheckFailed, match="fails its self-test"):
        in_turns([failing, failing], seconds=0.1)
    assert len(in_turns([failing, failing], seconds=0.1, untested=True)) == 2
    assert cli.main(["bench", str(failing), "--seconds", "0.1", "--json"]) == 1
    assert cli.main(["bench", str(failing), "--seconds", "0.1", "--json", "--untested"]) == 0


def test_bench_passes_the_line_on(tested: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(tested, seconds=0.1, warmup=0)
    assert "selftest: 6 tasks equal to torch's" in capsys.readouterr().err


def test_evaluate(failing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("embreex")
    scenes = registry.load("data", "scenes")
    sample = scenes.open(None, "val", tuple(artifact.read(failing).tasks), size=(48, 64))[0]
    sample["semseg"] %= 3  # the artifact knows three classes
    monkeypatch.setattr(scenes, "open", functools.wraps(scenes.open)(lambda *_, **__: [sample]))
    with pytest.raises(CheckFailed, match="fails its self-test"):
        evaluate(failing, limit=1)
    assert set(evaluate(failing, limit=1, untested=True)["tasks"]) == set(artifact.read(failing).tasks)


def test_json(tested: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selftest", str(tested), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] and result["digest"] == artifact.digest(artifact.read(tested))
    assert {task["verdict"] for task in result["tasks"].values()} == {"equal"}


def test_a_wrong_artifact_ends_with_1_after_the_table(failing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selftest", str(failing)]) == 1
    out, err = capsys.readouterr()
    assert out.count("WRONG") == 2 and err.count("\n") == 1


def test_no_torch(tested: Path) -> None:
    words = ["selftest", str(tested)]
    code = f"import sys\nfrom edgemtl import cli\nassert not cli.main({words})\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_the_machine_is_what_the_tests_take_it_for() -> None:
    assert processor.x86() == (platform.machine() == "x86_64")
    assert registry.load("targets", "openvino").target.careful == "CPU:float"
