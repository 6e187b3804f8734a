"""verify: passes what agrees, and fails what was broken on purpose."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemtl import tasks
from edgemtl.deployment import convert
from edgemtl.deployment.verify import verify
from edgemtl.device import readback, selftest
from edgemtl.device.bounds import BOUNDS, differences
from edgemtl.device.predictor import smooth_frames
from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.networks import checkpoint
from edgemtl.quantization import quantizers, weights
from edgemtl.records import artifact, recipe
from edgemtl.records.ledger import Check
from edgemtl.records.run import form_of
from tests import toy

pytestmark = pytest.mark.slow

CASES = [("openvino", "fp32", "model.bin"), ("openvino", "int8", "model.bin"), ("onnx", "int8", "model.onnx")]
OTHERS = [  # files beside model.onnx, and what runs them
    ("onnx", "model.webgpu.onnx", "CPU:webgpu"),
    ("onnx", "model.wasm.onnx", "CPU:wasm"),
    ("tensorrt", "model.fp16.onnx", "CPU:fp16"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of the toy network with an artifact of every case."""
    references = {"float": toy.deployed("fp32"), "int8": toy.deployed("int8")}
    folder = toy.write_run(tmp_path_factory.mktemp("runs") / "run")
    toy.write_ledger(folder, references["int8"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load", lambda run, form: copy.deepcopy(references[form]))
        for target, precision, _ in CASES:
            pytest.importorskip("onnxruntime" if target == "onnx" else target)
            convert.convert(folder, target=target, precision=precision)
        yield folder


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the rendering: the val split is a handful of random frames."""
    images = [{"image": frame} for frame in smooth_frames((96, 128), 3)]
    found = registry.load

    def load(kind: str, name: str) -> Any:
        made = type("module", (), {"open": staticmethod(lambda root, split, tasks, **options: images)})
        return made if kind == "data" else found(kind, name)

    monkeypatch.setattr(registry, "load", load)


def place(run: Path, target: str, precision: str) -> Path:
    return run / (target if precision == "int8" else f"{target}-{precision}")


@pytest.mark.parametrize(("target", "precision", "file"), CASES)
def test_what_was_converted_agrees(run: Path, frames: None, target: str, precision: str, file: str) -> None:
    result = verify(place(run, target, precision), frames=2)
    assert result["ok"] and result["frames"] == 2 and result["source"] == "nyud, val split"
    assert set(result["tasks"]) == set(toy.TASKS)
    assert result["tasks"]["semseg"]["agreement"] > BOUNDS[precision].agreement
    assert 0 <= result["tasks"]["depth"]["rms"] <= result["tasks"]["depth"]["max"]
    assert result["how"] == "executed" and result["device"].startswith("CPU (f32")
    assert result["digest"] == artifact.digest(artifact.read(place(run, target, precision)))
    assert (result["ledger"] or {}).get("matches") == (2 * len(toy.LAYERS) if precision == "int8" else None)
    assert json.loads((run / "verify.json").read_text())[place(run, target, precision).name] == json.loads(
        json.dumps(result)
    )


def broken(run: Path, tmp_path: Path, target: str, precision: str, file: str) -> Path:
    """A copy of an artifact in which a third of one layer's weights have another sign; its manifest stays."""
    source, folder = place(run, target, precision), tmp_path / "broken"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    network = weights.load(run, form_of(precision)).network
    needle = network.sampled.weight.numpy().tobytes()
    if precision == "int8":
        scale = next(q.scale for q in quantizers.quantizers(network) if q.name == "sampled.weight")
        needle = quantizers.codes(network.sampled.weight, scale, 0).numpy().tobytes()
    content = bytearray((folder / file).read_bytes())
    at = content.find(needle)
    assert at >= 0
    step = 1 if precision == "int8" else 4
    for last in range(at + step - 1, at + len(needle), 3 * step):
        content[last] ^= 0x80  # the sign
    (folder / file).write_bytes(content)
    return folder


@pytest.mark.parametrize(("target", "precision", "file"), CASES)
def test_flipped_weights_are_found(
    run: Path, frames: None, tmp_path: Path, target: str, precision: str, file: str
) -> None:
    folder = broken(run, tmp_path, target, precision, file)
    with pytest.raises(UsageError, match="was changed after the conversion"):
        verify(folder, run=run)
    manifest = json.loads((folder / artifact.FILE).read_text())
    names = list(manifest["files"])
    manifest["files"] = {name: made.model_dump() for name, made in artifact.describe(folder, names).items()}
    (folder / artifact.FILE).write_text(json.dumps(manifest))
    with pytest.raises(CheckFailed, match=f"beyond the bounds of {precision} in .*depth") as caught:
        verify(folder, run=run)
    named = re.search(r"sampled.weight: (model.onnx: )?int8 codes", str(caught.value))
    assert bool(named) == (precision == "int8")


@pytest.mark.parametrize(("target", "file", "device"), OTHERS)
@pytest.mark.parametrize("second", [False, True])
def test_every_file_is_executed(
    run: Path, frames: None, tmp_path: Path, target: str, file: str, device: str, second: bool
) -> None:
    """A bias is no quantized tensor: only running a file shows that it was changed."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    if not (run / target).is_dir():
        convert.convert(run, target=target, precision="int8")
    folder = tmp_path / target
    shutil.copytree(run / target, folder)
    checks = {check["name"]: check for check in verify(folder, run=run, frames=1)["checks"]}
    ran = [check["ok"] for name, check in checks.items() if name.startswith("maps by ")]
    assert ran == [True for of, *_ in OTHERS if of == target]

    changed = file if second else "model.onnx"
    model = onnx.load(folder / changed)
    [bias] = [made for made in model.graph.initializer if made.name.endswith("depth.bias")]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) * 3, bias.name))
    onnx.save(model, folder / changed)
    toy.mend(folder)
    for main in (None, "CPU", device):
        with pytest.raises(CheckFailed, match="depth"):
            verify(folder, run=run, frames=1, device=main)


def test_a_ledger_that_does_not_hold_fails_though_the_maps_agree(run: Path, frames: None, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    rows = json.loads((other / "scales.json").read_text())
    rows["quantized"][1]["scale"] *= 2
    (other / "scales.json").write_text(json.dumps(rows))
    with pytest.raises(
        CheckFailed, match=r"openvino: 17 of 18 entries bit-equal .*; stem/conv2d/0:0: scale \S+, the ledger has"
    ):
        verify(other / "openvino", frames=1)
    found = json.loads((other / "verify.json").read_text())["openvino"]
    assert not found["ok"] and all(task["ok"] for task in found["tasks"].values())


def test_checks_and_bounds_of_a_target_count(
    run: Path, frames: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = registry.load("targets", "openvino").target
    session = type(target.open(run / "openvino-fp32", artifact.read(run / "openvino-fp32")))
    made = [Check("lint", True, "3 rules hold")]
    monkeypatch.setattr(type(target), "check", lambda self, folder, manifest: made, raising=False)
    monkeypatch.setattr(session, "problems", lambda self: [], raising=False)
    own = {"name": "self-test", "ok": True, "text": "its maps are those of torch"}
    assert verify(run / "openvino-fp32", frames=1)["checks"] == [made[0]._asdict(), own]
    assert "ok lint: 3 rules hold" in capsys.readouterr().out

    monkeypatch.setattr(session, "problems", lambda self: [Check("overflow", False, "in conv_3")])
    with pytest.raises(CheckFailed, match="openvino-fp32: overflow: in conv_3$"):
        verify(run / "openvino-fp32", frames=1)
    monkeypatch.setattr(session, "problems", lambda self: [])

    tight = BOUNDS["fp32"]._replace(agreement=1.1)._asdict()
    monkeypatch.setattr(type(target), "bounds", {"fp32": tight}, raising=False)
    with pytest.raises(CheckFailed, match="beyond the bounds of fp32"):
        verify(run / "openvino-fp32", frames=1)
    assert json.loads((run / "verify.json").read_text())["openvino-fp32"]["bounds"] == tight


def test_a_self_test_of_another_network_is_noticed(run: Path, frames: None, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "openvino"
    convert.store_selftest(folder, toy.deployed("int8", seed=4), toy.SIZE)
    toy.mend(folder)
    with pytest.raises(CheckFailed, match="openvino: self-test: .*must be equal|openvino: self-test: .* off by "):
        verify(folder, frames=1)


@pytest.mark.parametrize(
    ("task", "value", "problem"),
    [
        ("depth", np.nan, "depth is NaN or infinite in 1 of 768 values"),
        ("semseg", 6, "semseg is class 6; allowed: 0 to 5"),
    ],
)
def test_maps_that_cannot_be_right_are_named_with_the_frame(
    run: Path, frames: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    task: str, value: float, problem: str,
) -> None:  # fmt: skip
    """Within bounds or not: one pixel of another class is allowed of int8, but not one of a class that there is not."""
    target = registry.load("targets", "openvino").target
    session = type(target.open(run / "openvino", artifact.read(run / "openvino")))
    really, count = session.__call__, iter(range(100))

    def broken(self: Any, frame: np.ndarray) -> dict[str, np.ndarray]:
        maps = {name: map.copy() for name, map in really(self, frame).items()}
        if next(count) >= 1:
            maps[task][0, 0] = value
        return maps

    monkeypatch.setattr(session, "__call__", broken)
    with pytest.raises(CheckFailed, match=re.escape(f"maps: {problem} (frame 1)")):
        verify(run / "openvino", frames=3, as_json=True)
    for text in (capsys.readouterr().out, (run / "verify.json").read_text()):
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"recipe": "another"}, "its recipe is 'another', not 'toy'"),
        ({"map_stride": 4}, "its map_stride is 4, not 2"),
        ({"size": (48, 96)}, "its size.1 is 96, not 64"),
        ({"fit": "padded"}, "its fit is 'padded', not 'stretched'"),
        ({"tasks": {"depth": toy.TASKS["depth"]}}, "its tasks.semseg is None, not {"),
        (
            {"tasks": toy.TASKS | {"semseg": tasks.build("semseg", {"classes": ["wall", "flour", *toy.CLASSES[2:]]})}},
            "its tasks.semseg.classes.1 is 'flour', not 'floor'",
        ),
        ({"tasks": toy.TASKS | {"depth": tasks.build("depth", {"far_m": 80})}}, "its tasks.depth.far_m is 80.0, not"),
        ({"data": recipe.Data(name="scenes")}, "its data.name is 'scenes', not 'nyud'"),
    ],
)
def test_a_manifest_that_says_something_else_than_the_run_fails(
    run: Path, frames: None, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    """Also on a device, where there is no run: the self-test knows what was said at the conversion."""
    folder = tmp_path / "openvino"
    shutil.copytree(run / "openvino", folder)
    toy.mend(folder, **changes)
    with pytest.raises(CheckFailed, match=f"{re.escape(problem)}.*; convert again"):
        verify(folder, run=run)
    with pytest.raises(CheckFailed, match="manifest.json was edited after the conversion: its "):
        selftest.read(folder, artifact.read(folder))


def test_other_words_of_a_manifest_are_held_too(run: Path, frames: None, tmp_path: Path) -> None:
    folder = tmp_path / "openvino"
    shutil.copytree(run / "openvino", folder)
    toy.mend(folder, exact=("depth",))
    with pytest.raises(CheckFailed, match="manifest: it says that the exact maps are depth; they are .*self-test: "):
        verify(folder, run=run, frames=1)
    made = artifact.read(run / "openvino")
    for without in ("selftest.npz", "model.bin"):
        files = {name: file for name, file in made.files.items() if name != without}
        artifact.write(folder, made.model_copy(update={"files": files}))
        with pytest.raises(CheckFailed, match="self-test: (the manifest lists none|.*: its files)"):
            verify(folder, run=run, frames=1)


def test_json_is_printed_before_the_check_fails(run: Path, frames: None, capsys: pytest.CaptureFixture[str]) -> None:
    verify(run / "openvino", frames=1, as_json=True)
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_where_nothing_can_be_written_the_result_is_printed(
    run: Path, frames: None, read_only: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="verify.json: the file system is read-only"):
        verify(run / "openvino", frames=1)
    assert "SHA-256 of all maps" in capsys.readouterr().out
    with pytest.raises(UsageError, match="verify.json: the file system is read-only"):
        readback.read_back(run / "openvino")
    assert "ledger: " in capsys.readouterr().out
    folder = broken(run, tmp_path, "openvino", "int8", "model.bin")
    with pytest.raises(CheckFailed, match="int8 codes.*; changed after.*; cannot write .*read-only"):
        readback.read_back(folder, run=run)


def test_a_run_that_was_trained_again_is_noticed(run: Path, frames: None, tmp_path: Path) -> None:
    other = toy.write_run(tmp_path / "other")
    checkpoint.save(other / "int8.safetensors", {"x": checkpoint.torch.zeros(1)}, {})
    with pytest.raises(CheckFailed, match="int8.safetensors has changed since"):
        verify(run / "openvino", run=other)


def test_without_data_frames_are_rendered(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("embreex")
    assert verify(run / "openvino", frames=1)["source"] == "rendered scenes"


def test_data_that_was_asked_for_must_be_there(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="val.txt is missing"):
        verify(run / "openvino", data=tmp_path)


def test_frames_must_be_positive(run: Path) -> None:
    with pytest.raises(UsageError, match="frames=0"):
        verify(run / "openvino", frames=0)


def test_comparison_of_maps() -> None:
    wanted = np.linspace(0, 1, 100, dtype=np.float32).reshape(1, 10, 10)
    bounds = BOUNDS["fp32"]
    assert differences(wanted, wanted, bounds) == {"max": 0, "rms": 0, "relative_rms": 0, "ok": True}
    assert not differences(wanted + 0.01, wanted, bounds)["ok"]
    one = wanted.copy()
    one[0, 0, 0] += 0.02
    assert not differences(one, wanted, bounds._replace(rms=1))["ok"]
    one[0, 0, 0] = np.nan
    assert not differences(one, wanted, BOUNDS["int8"])["ok"]


def test_comparison_of_classes() -> None:
    wanted = np.arange(1000, dtype=np.int32).reshape(1, 10, 100) % 7
    got = wanted.copy()
    got[0, 0, :4] += 1
    assert differences(got, wanted, BOUNDS["half"]) == {"agreement": 0.996, "ok": True}
    assert not differences(got, wanted, BOUNDS["int8"])["ok"] and not differences(got, wanted, BOUNDS["fp32"])["ok"]


def test_comparison_with_a_constant_map() -> None:
    flat = np.zeros((1, 4, 4), np.float32)
    assert differences(flat, flat, BOUNDS["int8"])["ok"]
    assert not differences(flat + 0.1, flat, BOUNDS["int8"])["ok"]
