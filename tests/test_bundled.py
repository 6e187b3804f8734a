"""The models that come with the package: which artifact a name means, and where it is unpacked."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemtl import Predictor, bundled, cli
from edgemtl.deployment import bundle
from edgemtl.device import selftest
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import sha256
from edgemtl.networks import checkpoint
from edgemtl.records import artifact
from edgemtl.records.run import Run

TARGETS = ["openvino", "onnx", "tensorrt", "coreml"]
MODELS = ["nyud_edge", "nyud_edge_s"]


def test_these_are_all() -> None:
    assert bundled.names() == MODELS and bundled.names("float") == MODELS[:1]
    assert list(bundled.summaries()) == MODELS


@pytest.fixture
def fresh() -> Iterator[None]:
    """What was unpacked before is forgotten, and so is what the test unpacks."""
    bundled.unpacked.cache_clear()
    yield
    bundled.unpacked.cache_clear()


@pytest.mark.parametrize(
    "installed, targets, wanted",
    [
        ("openvino onnxruntime tensorrt", (), "openvino"),
        ("onnxruntime coremltools", (), "onnx"),
        ("tensorrt", (), "tensorrt"),
        ("coremltools", (), "coreml"),
        ("", (), "openvino"),  # which then says what is missing
        ("openvino", ("onnx",), "onnx"),
        ("onnxruntime", ("tensorrt", "onnx"), "onnx"),
        ("", ("tensorrt", "onnx"), "onnx"),
    ],
)
def test_a_name_means_what_runs_here(
    monkeypatch: pytest.MonkeyPatch, installed: str, targets: tuple[str, ...], wanted: str
) -> None:
    monkeypatch.setattr(bundled, "find_spec", lambda name: name in installed.split() or None)
    run = bundled.run("nyud_edge")
    assert bundled.folder("nyud_edge", targets) == bundled.folder(None, targets) == run / wanted
    assert bundled.folder("nyud_edge/coreml", targets) == run / "coreml"


@pytest.mark.parametrize("name", MODELS)
def test_all_targets_are_of_the_bundled_weights(name: str) -> None:
    run = Run(bundled.run(name))
    manifests = {folder.name: manifest for folder, manifest in run.artifacts().items()}
    assert sorted(manifests) == sorted(TARGETS)
    weights = run.describe("int8").weights_sha256
    for manifest in manifests.values():
        assert manifest.weights_sha256 == weights and manifest.scores == manifests["openvino"].scores
        assert manifest.exact == tuple(manifest.tasks) and artifact.SELFTEST in manifest.files


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target, module", [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_they_compute_torchs_bits(target: str, module: str, name: str) -> None:
    pytest.importorskip(module)
    result = selftest.run(Predictor(f"{name}/{target}"))
    assert {task["verdict"] for task in result["tasks"].values()} == {selftest.EQUAL}


@pytest.mark.parametrize("model", ["nyud_edge/onx", "nyud_edge/torch_tensorrt", "nyud_edge/onnx/model.onnx"])
def test_a_target_that_does_not_come_with_it(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selftest", model]) == 2
    said = capsys.readouterr().err
    assert said.startswith("edgemtl: nyud_edge comes for openvino, onnx, tensorrt, coreml, not for ")
    assert "`edgemtl convert nyud_edge --target TARGET --out DIR`" in said and said.count("\n") == 1


def test_a_folder_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nyud_edge").mkdir()
    monkeypatch.chdir(tmp_path)
    assert bundled.folder("nyud_edge") == bundled.run("nyud_edge") == Path("nyud_edge")
    assert bundled.folder() == bundled.unpacked("nyud_edge") / bundled.folder().name


def test_a_missing_runtime_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli.main(["selftest", "nyud_edge/onnx"]) == 2
    assert capsys.readouterr().err == 'edgemtl: onnxruntime is not installed; pip install "edgemtl[onnx]"\n'


def test_it_is_unpacked_once_and_whole(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "user_cache", lambda: tmp_path)
    run = bundled.run("nyud_edge")
    assert run.parent == tmp_path / "models" and list(run.parent.iterdir()) == [run]
    assert {"README.md", "recipe.json", "float.safetensors", "int8.safetensors"} < {p.name for p in run.iterdir()}
    (run / "mark").touch()
    bundled.unpacked.cache_clear()
    assert (bundled.run("nyud_edge") / "mark").exists()


def test_another_process_may_be_faster(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "user_cache", lambda: tmp_path)
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        Path(target, "theirs").mkdir(parents=True)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    assert (bundled.run("nyud_edge") / "theirs").is_dir()
    assert len(list((tmp_path / "models").iterdir())) == 1


@pytest.mark.parametrize("problem", [OSError, RuntimeError])
def test_without_a_cache_it_is_unpacked_for_this_process(
    tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch, problem: type[Exception]
) -> None:
    def none() -> Path:
        raise problem("no such folder")

    monkeypatch.setattr(bundled, "user_cache", none)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert bundled.folder("nyud_edge/onnx").is_relative_to(tmp_path)
    assert artifact.read(bundled.folder("nyud_edge/onnx")).target == "onnx"


def test_a_run_is_packed_and_comes_out_again(
    tmp_path: Path, fake_artifact: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, codes = Run(fake_artifact.parent), np.random.default_rng(0).integers(-127, 128, 100_000).astype(np.int8)
    run.weights("int8").write_bytes(codes.tobytes())
    float_weights = {"weight": torch.linspace(0, 1, 7), "count": torch.tensor(3)}
    checkpoint.save(run.weights("float"), float_weights, {"recipe": "toy"})
    for file in (run.recipe_file, run.ledger):
        file.write_text("{}")
    higher = (codes.astype(np.int16) + 128).astype(np.uint8)
    for target, name, content in (("coreml", "weight.bin", higher), ("openvino", "model.bin", codes)):
        folder = run.artifact(target)
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.tobytes())
        changes = {
            "files": artifact.describe(folder, [name]),
            "weights_sha256": sha256(run.weights("int8")),
        }
        artifact.write(folder, artifact.read(fake_artifact, intact=False).model_copy(update=changes))
    (tmp_path / "zoo").mkdir()
    monkeypatch.setattr(bundled, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(bundled, "user_cache", lambda: tmp_path / "cache")
    packed = [bundle.pack(run.folder, name).read_bytes() for name in ("one", "two")]
    assert packed[0] == packed[1] and len(packed[0]) < 1.1 * len(codes)
    assert bundled.names() == ["one", "two"]
    halves, about = checkpoint.load(tmp_path / "zoo" / "two" / "float.safetensors")
    assert torch.equal(halves["weight"], float_weights["weight"].half()) and halves["count"].dtype == torch.int64
    assert about == {"recipe": "toy"}
    unpacked = Run(bundled.run("two"))
    assert [folder.name for folder in unpacked.artifacts()] == ["coreml", "openvino"]
    for name in ("int8.safetensors", "recipe.json", "coreml/weight.bin", "openvino/model.bin"):
        assert (unpacked.folder / name).read_bytes() == (run.folder / name).read_bytes()
    run.weights("int8").write_bytes(b"other")
    with pytest.raises(UsageError, match="coreml is of other weights than .*int8.safetensors; convert again"):
        bundle.pack(run.folder, "one")
