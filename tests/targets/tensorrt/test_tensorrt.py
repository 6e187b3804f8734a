"""What a TensorRT artifact holds: both ONNX files, the device's script, the checks and the ledger read back."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx
from onnx import TensorProto, numpy_helper

from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.records import ledger
from edgemtl.records.target import Original
from edgemtl.targets.tensorrt import devices, fp16, lint, parser, target
from edgemtl.targets.tensorrt.graph import Graph
from tests import toy
from tests.targets.tensorrt import models as m

pytestmark = pytest.mark.slow


def manifest(precision: str) -> Any:
    return SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE, precision=precision)


@pytest.fixture(scope="module")
def folders(converted: Callable[..., Path]) -> dict[str, Path]:
    return {precision: converted("tensorrt", precision) for precision in target.precisions}


def load(folder: Path, name: str) -> Graph:
    return Graph(onnx.load(folder / name))


def test_which_files_each_precision_has(folders: dict[str, Path]) -> None:
    files = {
        precision: {path.name for path in folder.iterdir() if path.suffix in (".onnx", ".sh")}  # no engines of this GPU
        for precision, folder in folders.items()
    }
    assert files == {
        "fp32": {"model.onnx", "build.sh"},
        "fp16": {"model.fp16.onnx", "build.sh"},
        "int8": {"model.onnx", "model.fp16.onnx", "build.sh"},
    }


def test_opsets_and_the_camera_is_cast_first(folders: dict[str, Path]) -> None:
    for precision, name, opset, ir in (
        ("fp32", "model.onnx", 17, 8),
        ("fp16", "model.fp16.onnx", 17, 8),
        ("int8", "model.onnx", 17, 8),
        ("int8", "model.fp16.onnx", 19, 9),
    ):
        graph = load(folders[precision], name)
        assert (graph.opset, graph.model.ir_version) == (opset, ir)
        assert [node.op_type for node in graph.readers["frame"]] == ["Cast"]
        assert {e.key: e.value for e in graph.model.metadata_props} == {"recipe": "toy"}
        assert {o.name: o.type.tensor_type.elem_type for o in graph.model.graph.output} == {
            "semseg": TensorProto.INT32, "depth": TensorProto.FLOAT, "normals": TensorProto.FLOAT,
            "edge": TensorProto.FLOAT,
        }  # fmt: skip


def test_layers_are_float16_and_positions_float32(folders: dict[str, Path]) -> None:
    for precision in ("fp16", "int8"):
        graph = load(folders[precision], "model.fp16.onnx")
        for node in graph.of("Conv"):
            assert {graph.type(tensor) for tensor in (*node.input, *node.output)} == {TensorProto.FLOAT16}, node.name
        for node in graph.of("GridSample"):
            assert {graph.type(tensor) for tensor in node.input} == {TensorProto.FLOAT}
        assert {graph.type(node.output[0]) for node in graph.coordinates()} == {TensorProto.FLOAT}
        assert {graph.type(node.output[0]) for node in graph.of("Resize")} == {TensorProto.FLOAT16}


def test_no_cast_stands_between_dequantize_and_its_layer(folders: dict[str, Path]) -> None:
    graph = load(folders["int8"], "model.fp16.onnx")
    layers = list(graph.of("Conv"))
    assert len(layers) == len(toy.LAYERS)
    for node in layers:
        assert [graph.maker[tensor].op_type for tensor in node.input[:2]] == ["DequantizeLinear"] * 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> ledger.Ledger:
    return toy.read_ledger(tmp_path_factory.mktemp("ledger"))


def test_the_ledger_is_found_in_both_files(folders: dict[str, Path], rows: ledger.Ledger) -> None:
    files = target.quantized(folders["int8"])
    assert list(files) == ["model.onnx", "model.fp16.onnx"]
    for found in files.values():
        assert ledger.compare(rows, found).ok
    result = ledger.compare_files(rows, files)
    assert result.ok and result.text == (
        "18 of 18 entries bit-equal in each of 2 files (9 weights, 9 activations, 30 places)"
    )
    assert all(
        "model.onnx: one node with" in text and "; model.fp16.onnx: one" in text for text in result.merged.values()
    )


@pytest.mark.parametrize("file", ["model.onnx", "model.fp16.onnx"])
def test_what_one_file_lacks_the_other_cannot_make_up_for(
    file: str, folders: dict[str, Path], rows: ledger.Ledger, tmp_path: Path
) -> None:
    """One place of two: so many as both files together have in another quantizer too many."""
    files = target.quantized(folders["int8"])
    lacking = [one for one in files[file] if one.name != "deep/conv2d/0:0"]
    other = next(name for name in files if name != file)
    doubled = [*files[other], *(one for one in files[other] if one.name == "deep/conv2d/0:0")]
    result = ledger.compare_files(rows, {file: lacking, other: doubled})
    assert set(result.wrong) == {"deep/conv2d/0:0"}
    assert f"{file}: the artifact does not have it" in result.wrong["deep/conv2d/0:0"]
    assert f"{other}: 2 places, the network has 1" in result.wrong["deep/conv2d/0:0"]

    folder = shutil.copytree(folders["int8"], tmp_path / "copy")
    model = onnx.load(folder / file)
    [back] = [node for node in model.graph.node if node.name == "deep/conv2d/0:0"]
    before = next(node for node in model.graph.node if node.output[0] == back.input[0])
    for node in model.graph.node:
        node.input[:] = [before.input[0] if value == back.output[0] else value for value in node.input]
    model.graph.node.remove(before)
    model.graph.node.remove(back)
    onnx.save(model, folder / file)
    result = ledger.compare_files(rows, target.quantized(folder))
    assert result.wrong == {"deep/conv2d/0:0": f"{file}: the artifact does not have it"}


@pytest.mark.parametrize("file", ["model.onnx", "model.fp16.onnx"])
@pytest.mark.parametrize("what", ["scale", "codes"])
def test_one_changed_bit_in_either_file_is_found(
    file: str, what: str, folders: dict[str, Path], rows: ledger.Ledger, tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["int8"], tmp_path / "copy")
    model = onnx.load(folder / file)
    held = next(i for i in model.graph.initializer if i.name == f"deep.weight/{what}")
    value = numpy_helper.to_array(held).copy()
    value.view(np.uint16 if value.dtype == np.float16 else np.uint8).reshape(-1)[0] ^= 1
    held.CopyFrom(numpy_helper.from_array(value, held.name))
    onnx.save(model, folder / file)
    result = ledger.compare_files(rows, target.quantized(folder))
    assert list(result.wrong) == ["deep.weight"] and result.wrong["deep.weight"].startswith(f"{file}: ")


def test_the_twin_is_near_and_not_the_same(folders: dict[str, Path]) -> None:
    frame = toy.frames()[0]
    session = target.open(folders["fp16"], manifest("fp16"), "CPU")
    wanted = toy.maps(toy.deployed("fp32"), frame)["depth"]
    difference = np.abs(session(frame)["depth"] - wanted).max()
    assert 1e-6 < difference < 1e-2 * wanted.std()


def test_checks_say_what_was_looked_at(folders: dict[str, Path]) -> None:
    checks = target.check(folders["int8"], manifest("int8"))
    assert all(check.ok for check in checks)
    assert [check.name for check in checks][:5] == [
        "lint of model.onnx for TensorRT 8.6",
        "lint of model.fp16.onnx for TensorRT 10.3",
        "lint of model.fp16.onnx for TensorRT 11.4",
        "model.fp16.onnx from model.onnx",
        "lint for TensorRT 8.5, which need not take it",
    ]
    asked = [check.text for check in checks[5:]]
    if parser.missing():
        assert asked == [f"not asked: {parser.missing()}"]
    else:
        assert asked == [f"accepted by {parser.name()}'s parser and builder for SM86; not run on a Jetson"] * 2


def test_a_damaged_file_fails_its_checks(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, "missing", lambda: "not here")
    folder = shutil.copytree(folders["int8"], tmp_path / "copy")
    model = onnx.load(folder / "model.onnx")
    scale = next(i for i in model.graph.initializer if i.name == "deep.weight/scale")
    scale.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(scale), scale.name))
    onnx.save(model, folder / "model.onnx")
    wrong = [check for check in target.check(folder, manifest("int8")) if not check.ok]
    assert [check.name for check in wrong] == ["lint of model.onnx for TensorRT 8.6", "model.fp16.onnx from model.onnx"]
    assert "Q2 refused: deep.weight" in wrong[0].text and "initializer deep.weight/scale" in wrong[1].text


def test_a_weight_that_one_file_lacks_is_found(folders: dict[str, Path], rows: ledger.Ledger, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["int8"], tmp_path / "copy")
    model = onnx.load(folder / "model.fp16.onnx")
    [gone] = [node for node in model.graph.node if node.name == "deep.weight"]
    plain = numpy_helper.from_array(np.zeros((16, 1, 3, 3), np.float16), gone.output[0])
    model.graph.initializer.append(plain)
    model.graph.node.remove(gone)
    onnx.save(model, folder / "model.fp16.onnx")
    result = ledger.compare_files(rows, target.quantized(folder))
    assert result.wrong == {"deep.weight": "model.fp16.onnx: the artifact does not have it"}


def test_a_model_that_would_be_refused_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgemtl.targets import tensorrt

    monkeypatch.setattr(tensorrt, "cast_first", lambda model: None)
    with pytest.raises(CheckFailed, match="model.onnx is not for TensorRT 8.6: U1 refused: .*Transpose reads uint8"):
        target.convert(Original(toy.deployed("fp32"), toy.SIZE, toy.TASKS, "fp32"), tmp_path)
    assert not list(tmp_path.iterdir())


# ---- the float16 pass alone


def test_a_constant_beyond_float16_is_refused() -> None:
    with pytest.raises(CheckFailed, match="c: 70000 is beyond float16"):
        fp16.typed(m.model([m.node("Conv", "x w", "a"), m.node("Add", "a c", "b"), m.node("Conv", "b w", "y")],
            {"x": ("f", [1, 1, 4, 4])}, {"y": ("f", [1, 1, 4, 4])}, w=np.ones((1, 1, 1, 1), np.float32),
            c=np.float32(7e4)))  # fmt: skip


def test_control_flow_is_refused() -> None:
    with pytest.raises(CheckFailed, match="If_y: .*control flow"):
        fp16.typed(m.branching())


def test_scales_are_bit_equal_and_shared_constants_are_kept_in_both_types() -> None:
    nodes = [
        *m.pair("x", "d"), *m.layer("d", "a"),  # the first layer
        m.node("Mul", "a c", "b"), *m.pair("b", "e"), m.node("Conv", "e a_w", "f", pads=[1] * 4),
        m.node("Mul", "f c", "y"),  # behind the last one: float32
    ]  # fmt: skip
    twin = fp16.typed(m.quantized(nodes, c=np.float32(0.1)))
    held = {i.name: numpy_helper.to_array(i) for i in twin.graph.initializer}
    assert held["ws"].dtype == np.float16 and held["ws"].astype(np.float32).tobytes() == m.SCALES.tobytes()
    assert held["c"].dtype == np.float16 and held["c/float32"] == np.float32(0.1)
    assert lint.lint(twin, "10.3") == []


def test_a_scale_that_float16_would_round_is_refused() -> None:
    with pytest.raises(CheckFailed, match="s: 0.1 is no float16 number"):
        fp16.typed(m.conv(scale=np.float32(0.1)))


# ---- opening, and the script for the device


def test_which_file_stands_in(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    session = target.open(folders["int8"], manifest("int8"), "cpu")
    assert session.how == "stand-in" and "CPU, model.onnx" in session.device and not capsys.readouterr().err
    assert "CPU, model.fp16.onnx" in target.open(folders["int8"], manifest("int8"), "CPU:fp16").device
    assert "CPU, model.fp16.onnx" in target.open(folders["fp16"], manifest("fp16"), "CPU").device
    with pytest.raises(UsageError, match="is fp32 and has no model.fp16.onnx; --device CPU runs model.onnx"):
        target.open(folders["fp32"], manifest("fp32"), "CPU:fp16")


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize(
    ("version", "file", "flags"),
    [
        ("8.5.2-1+cuda11.4", "model.onnx", {"--fp16", "--int8", "--precisionConstraints=obey", "--buildOnly"}),
        ("8.6.2.3-1+cuda12.2", "model.onnx", {"--fp16", "--int8", "--precisionConstraints=obey", "--skipInference"}),
        ("10.3.0.30-1+cuda12.5", "model.fp16.onnx", {"--stronglyTyped", "--skipInference"}),
        ("11.4.1.1-1", "model.fp16.onnx", {"--skipInference"}),
    ],
)
def test_the_script_picks_file_and_flags_by_version(
    version: str, file: str, flags: set[str], folders: dict[str, Path], tmp_path: Path
) -> None:
    tool = tmp_path / "trtexec"
    tool.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", str(folders["int8"] / "build.sh"), version]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    words = run.stdout.splitlines()
    assert f"--onnx={file}" in words and "--saveEngine=model.plan" in words
    assert [word for word in words if word.startswith("--memPoolSize=workspace:")][0].rpartition(":")[2].isdecimal()
    assert {word for word in words if "=" not in word or word.startswith("--precision")} == flags
    [kept] = [word for word in words if word.startswith("--layerPrecisions")] or [""]
    assert ("GridSample:fp32" in kept) == version.startswith("8.")


def test_the_script_refuses_a_version_it_does_not_know(folders: dict[str, Path]) -> None:
    run = subprocess.run(["sh", str(folders["fp32"] / "build.sh"), "7.1.3"], capture_output=True, text=True)
    assert run.returncode == 2 and "not 7.1.3" in run.stderr


def test_what_is_known_of_each_jetpack() -> None:
    for jetpack in devices.JETPACKS:
        assert set(jetpack.boards) <= set(devices.BOARDS)
        assert any(jetpack.tensorrt.startswith(pattern[:-1]) for pattern in devices.SCRIPTED)
        assert jetpack.checked == (jetpack.source != "none found")
    assert {name for jetpack in devices.JETPACKS for name in jetpack.boards} == set(devices.BOARDS)
    script = devices.script("int8", [])
    for jetpack in devices.JETPACKS:
        unchecked = "" if jetpack.checked else " (not checked)"
        assert f"JetPack {jetpack.version}, TensorRT {jetpack.tensorrt}{unchecked}" in script
