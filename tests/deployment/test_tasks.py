"""Artifacts with some of a run's tasks alone: the same maps, and of the network what they need."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemtl.deployment import convert
from edgemtl.deployment.blame import blame
from edgemtl.deployment.recording import check_recording
from edgemtl.deployment.verify import verify
from edgemtl.device import record, selftest
from edgemtl.device.info import info
from edgemtl.device.predictor import Predictor
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.quantization import weights
from edgemtl.records import artifact, ledger
from edgemtl.records.ledger import Found
from edgemtl.records.target import load_target
from tests import toy

pytestmark = pytest.mark.slow

KEPT = ["depth", "normals"]
PACKAGES = {"coreml": "coremltools", "onnx": "onnxruntime", "openvino": "openvino", "tensorrt": "onnxruntime"}
CASES = [("coreml", "int8"), ("onnx", "int8"), ("openvino", "fp16"), ("openvino", "int8"), ("tensorrt", "fp32")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of the toy network; nothing in it is converted yet."""
    folder = toy.write_run(tmp_path_factory.mktemp("runs") / "run")
    toy.write_ledger(folder, toy.deployed("int8"))
    with pytest.MonkeyPatch.context() as patch:
        # Each a network of its own, since it may be cut.
        patch.setattr(weights, "load", lambda run, form: toy.deployed("int8" if form == "int8" else "fp32"))
        yield folder


def converted(run: Path, target: str, precision: str, kept: list[str] | None = None) -> Path:
    pytest.importorskip(PACKAGES[target])
    return convert.convert(run, target=target, precision=precision, tasks=kept)


@pytest.mark.parametrize(("target", "precision"), CASES)
def test_it_has_the_kept_maps_bit_for_bit_and_no_layer_of_the_others(run: Path, target: str, precision: str) -> None:
    whole = converted(run, target, precision)
    before = artifact.read(whole)
    folder = converted(run, target, precision, KEPT[::-1])
    manifest = artifact.read(folder)
    assert folder.name == f"{whole.name}-depth+normals"  # in the recipe's order, however they were asked for
    assert list(manifest.tasks) == KEPT and set(manifest.scores) <= set(KEPT) and set(manifest.exact) <= set(KEPT)
    assert artifact.read(whole) == before
    assert artifact.size(manifest) < artifact.size(before)
    assert set(selftest.read(folder, manifest).hashes) == set(KEPT)
    device = "CPU" if target == "tensorrt" and precision != "fp16" else None
    cut, all_of_it = (load_target(target).open(path, artifact.read(path), device) for path in (folder, whole))
    for frame in toy.frames():
        got, wanted = cut(frame), all_of_it(frame)
        assert set(got) == set(KEPT)
        for task in KEPT:
            np.testing.assert_array_equal(got[task], wanted[task], err_msg=task)
    if precision == "int8":
        layers = {"stem", "deep", "point", "offset", "sampled", *KEPT}
        for file, found in (load_target(target).quantized(folder) or {}).items():
            assert {one.name for one in found if one.role == "weight"} == {f"{name}.weight" for name in layers}, file


@pytest.mark.parametrize(("target", "precision"), [("openvino", "int8"), ("onnx", "int8"), ("openvino", "fp32")])
def test_it_is_verified_like_any_other(run: Path, target: str, precision: str, tmp_path: Path) -> None:
    folder = converted(run, target, precision, ["edge"])
    result = verify(folder, frames=2)
    assert result["ok"] and list(result["tasks"]) == ["edge"]
    if precision == "int8":
        assert result["ledger"]["matches"] == result["ledger"]["entries"] == 2 * 6
        assert not result["codes"]["differing"]
    assert selftest.selftest(folder)["ok"] and info(folder)["tasks"] == ["edge"]
    assert blame(folder)["first"] is None
    assert set(Predictor(folder)(toy.frames()[0])) == {"edge"}
    record.record(folder, out=tmp_path / "recorded.npz", frames=2)
    assert check_recording(folder, tmp_path / "recorded.npz")["ok"]


def test_all_tasks_are_the_whole_artifact(run: Path) -> None:
    assert converted(run, "openvino", "fp32", list(toy.TASKS)[::-1]).name == "openvino-fp32"


def test_wrong_tasks_are_one_line(run: Path) -> None:
    before = sorted(path.name for path in run.iterdir())
    for kept, said in (
        (["dept"], "unknown task 'dept'; did you mean 'depth'"),
        ([], "--tasks names no task; toy has semseg, depth, normals, edge"),
        (["depth", "edge", "depth"], "--tasks names depth twice"),
    ):
        with pytest.raises(UsageError, match=said):
            convert.convert(run, target="openvino", tasks=kept)
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_whole_artifact_that_calls_itself_cut_is_caught(run: Path, tmp_path: Path) -> None:
    whole, folder = converted(run, "openvino", "int8"), tmp_path / "cut"
    shutil.copytree(whole, folder)
    manifest = artifact.read(folder)
    toy.mend(folder, tasks={"edge": manifest.tasks["edge"]})
    with pytest.raises(CheckFailed, match=r"(semseg|depth|normals).*that is not in the ledger|edited after"):
        verify(folder, run=run, frames=1)


# ---- the ledger


def row(name: str, role: str, *reads: tuple[str, ...], slots: int = 1) -> ledger.Row:
    scale = np.ones((), np.float32) if role == "activation" else np.ones(1, np.float32)
    axis, sha256 = (None, None) if role == "activation" else (0, Found(name, "weight", 8, 0, scale, CODES).sha256)
    return ledger.Row(name, role, 8, axis, scale, ("points.x",) * slots, sha256, frozenset(reads))


def found(name: str, role: str, *reads: tuple[str, ...]) -> Found:
    of = row(name, role, *reads)
    return Found(name, role, 8, of.axis, of.scale, CODES if role == "weight" else None, ("reader",), reads)


CODES = np.ones((1, 1), np.int8)
# A layer of weight `w` that runs for each of two tasks, a on x and b on y.
SHARED = ledger.Ledger(
    "",
    "power of two",
    [
        row("x", "activation", ()),
        row("y", "activation", ())._replace(scale=np.full((), 2, np.float32)),
        row("w", "weight", ("x",), ("y",), slots=2),
        row("z", "activation", ("w", "x"), ("w", "y"), slots=2),
    ],
    {"a": ("z",), "b": ("z",)},
)
HALF = [
    found("x", "activation", ()),
    found("w", "weight", ("x",)),
    found("z", "activation", ("w", "x")),
    ledger.output("a", ("z",)),
]


def test_a_layer_that_runs_for_several_tasks_runs_less_often_in_a_cut_file() -> None:
    result = ledger.compare(ledger.cut(SHARED, ["a"]), HALF)
    assert result.ok, (result.wrong, result.unknown)
    assert list(result.rows) == ["x", "w", "z"] and not result.merged and result.text.startswith("3 of 3 entries")
    assert "b" in ledger.compare(SHARED, HALF).wrong


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({2: found("z", "activation", ("x",))}, "z"),  # another weight in w's place, which is float
        ({0: HALF[3], 1: found("w", "weight", ()), 2: found("z", "activation", ("w",))}, "z"),  # x is gone
        ({1: found("w", "weight", ("x",), ("u",))}, "w"),
        ({2: found("v", "activation", ("w", "x"))}, "z"),
        ({3: ledger.output("a", ("w", "x"))}, "a"),
    ],
)
def test_a_cut_file_is_held_against_what_is_left(broken: dict[int, Found], named: str) -> None:
    held = [broken.get(index, one) for index, one in enumerate(HALF)]
    result = ledger.compare(ledger.cut(SHARED, ["a"]), held)
    assert not result.ok and named in result.wrong, (result.wrong, result.unknown)


def test_what_no_kept_map_comes_from_is_not_in_a_cut_ledger() -> None:
    apart = SHARED._replace(outputs={"a": ("z",), "b": ("y",)})
    assert [one.name for one in ledger.cut(apart, ["b"]).rows] == ["y"]
    assert ledger.cut(apart, ["b", "a"]) is apart
