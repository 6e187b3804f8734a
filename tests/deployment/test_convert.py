"""Conversion: whole artifacts or none, and a manifest that tells where they came from."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgemtl.deployment import convert
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_json, sha256, write_json
from edgemtl.quantization import weights
from edgemtl.records import artifact
from edgemtl.records.target import Original, Target
from tests import toy

LOAD = weights.load


@dataclass(frozen=True)
class Options:
    sheets: int = 1


class Paper(Target):
    """A target that writes a file of text."""

    precisions = ("fp32", "int8")
    packages = ("numpy", "a-package-that-is-not-there")
    options = Options
    text = "first"

    def convert(self, original: Original, folder: Path) -> list[str]:
        self.sheets, self.facts = original.options.sheets, original.metadata
        (folder / "model.txt").write_text(f"{self.text} {original.precision} {original.metadata['recipe']}")
        return ["model.txt"]


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Paper:
    made = Paper()
    found = registry.load

    def load(kind: str, name: str) -> Any:
        return type("module", (), {"target": made}) if (kind, name) == ("targets", "paper") else found(kind, name)

    monkeypatch.setattr(registry, "load", load)
    monkeypatch.setattr(weights, "load", lambda run, form: toy.deployed("fp32"))
    return made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy.write_run(tmp_path / "run")


def test_manifest_and_files(run: Path, paper: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    folder = convert.convert(run, target="paper")
    manifest = artifact.read(folder)
    assert folder == run / "paper"
    assert (manifest.recipe, manifest.target, manifest.precision) == ("toy", "paper", "int8")
    assert manifest.size == toy.SIZE and manifest.map_stride == 2
    assert manifest.tasks["semseg"].classes == toy.CLASSES  # type: ignore[attr-defined]
    assert manifest.data is not None and manifest.data.name == "nyud"
    assert manifest.weights_sha256 == sha256(run / "int8.safetensors")
    assert {"edgemtl", "torch", "numpy"} - set(manifest.toolchain) <= {"edgemtl"}  # a bare checkout is not installed
    assert "a-package-that-is-not-there" not in manifest.toolchain
    assert manifest.scores == {"depth": {"rmse": 0.5}}  # from the checkpoint
    assert (folder / "model.txt").read_text() == "first int8 toy"
    assert f"next: edgemtl verify {folder}" in capsys.readouterr().out


def test_a_targets_own_settings_reach_it_and_are_noted(run: Path, paper: Paper) -> None:
    assert artifact.read(convert.convert(run, target="paper")).options == {} and paper.sheets == 1
    assert artifact.read(convert.convert(run, target="paper", settings=["sheets=2"])).options == {"sheets": 2}
    assert paper.sheets == 2
    with pytest.raises(UsageError, match="unknown setting of target paper 'sheet'; did you mean 'sheets'"):
        convert.convert(run, target="paper", settings=["sheet=2"])
    with pytest.raises(UsageError, match="--set takes key=value, got 'sheets'"):
        convert.convert(run, target="paper", settings=["sheets"])
    assert artifact.read(run / "paper").options == {"sheets": 2}


@pytest.mark.parametrize(("native", "fit"), [(False, "stretched"), (True, "padded")])
def test_how_frames_are_fitted_goes_into_the_artifact(run: Path, paper: Paper, native: bool, fit: str) -> None:
    about = read_json(run / "recipe.json")
    about["recipe"]["augment"]["native"] = native
    write_json(run / "recipe.json", about)
    assert artifact.read(convert.convert(run, target="paper")).fit == fit
    assert paper.facts.get("fit", "stretched") == fit


def test_float_goes_into_a_folder_of_its_own(run: Path, paper: Paper) -> None:
    folder = convert.convert(run, target="paper", precision="fp32")
    assert folder == run / "paper-fp32"
    assert artifact.read(folder).weights_sha256 == sha256(run / "float.safetensors")


def test_scores_of_evaluate_win_while_they_are_of_these_weights(run: Path, paper: Paper) -> None:
    entry = {"weights_sha256": sha256(run / "int8.safetensors"), "tasks": {"depth": {"rmse": 0.4}}}
    write_json(run / "scores.json", {"int8": entry})
    assert artifact.read(convert.convert(run, target="paper")).scores == {"depth": {"rmse": 0.4}}
    write_json(run / "scores.json", {"int8": entry | {"weights_sha256": "0" * 64}})
    assert artifact.read(convert.convert(run, target="paper")).scores == {"depth": {"rmse": 0.5}}


@pytest.mark.slow
def test_an_artifact_is_replaced_when_the_new_one_is_complete(run: Path, paper: Paper) -> None:
    folder = convert.convert(run, target="paper")
    (folder / "left over").touch()
    paper.text = "second"
    convert.convert(run, target="paper")
    assert (folder / "model.txt").read_text().startswith("second")
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "model.txt", "selftest.npz"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_conversion_that_fails_leaves_the_old_artifact(
    run: Path, paper: Paper, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    folder = convert.convert(run, target="paper")
    before = sorted(p.name for p in run.iterdir())

    def fail(*args: Any) -> list[str]:
        Paper.convert(paper, *args)
        raise error

    monkeypatch.setattr(paper, "convert", fail)
    with pytest.raises(type(error)):
        convert.convert(run, target="paper")
    assert artifact.read(folder)
    assert sorted(p.name for p in run.iterdir()) == before


@pytest.mark.parametrize("error", [OSError(5, "broken"), PermissionError(13, "no"), KeyboardInterrupt()])
def test_the_old_artifact_survives_an_error_between_the_two_renames(
    run: Path, paper: Paper, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    folder = convert.convert(run, target="paper")
    before = sorted(p.name for p in run.iterdir())
    usual = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise error
        return usual(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    paper.text = "second"
    with pytest.raises(UsageError if isinstance(error, PermissionError) else type(error)):
        convert.convert(run, target="paper")
    assert artifact.read(folder)
    assert (folder / "model.txt").read_text().startswith("first")
    assert sorted(p.name for p in run.iterdir()) == before


def test_a_full_disk_is_one_line(run: Path, paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> list[str]:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(paper, "convert", fail)
    with pytest.raises(UsageError, match="cannot write .*paper: no space left"):
        convert.convert(run, target="paper")
    assert not list(run.glob(".*"))


def test_it_goes_where_it_is_told(run: Path, paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "elsewhere" / "paper"
    for _ in range(2):  # an older artifact is replaced
        assert convert.convert(run, target="paper", out=out) == out
    assert artifact.read(out).target == "paper" and not (run / "paper").exists()
    assert f"next: edgemtl verify {out} --run {run}\n" in capsys.readouterr().out
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine").touch()
    with pytest.raises(UsageError, match="notes exists and is not an artifact's folder"):
        convert.convert(run, target="paper", out=tmp_path / "notes")
    assert (tmp_path / "notes" / "mine").exists()


@pytest.mark.slow
def test_a_bundled_model_by_its_name(paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "load", LOAD)
    made = artifact.read(convert.convert("nyud_edge", target="paper", precision="fp32", out=tmp_path / "paper"))
    assert made.recipe == "nyud_edge"
    with pytest.raises(UsageError, match="nyud_edge is a bundled model; name the artifact's folder with --out DIR"):
        convert.convert("nyud_edge", target="paper")


def test_wrong_names_say_what_is_right(run: Path, paper: Paper) -> None:
    with pytest.raises(UsageError, match="did you mean 'openvino'"):
        convert.convert(run, target="openvin")
    with pytest.raises(UsageError, match="unknown precision 'int4'; target paper offers fp32, int8"):
        convert.convert(run, target="paper", precision="int4")


@pytest.mark.parametrize(("precision", "command"), [("int8", "compress"), ("fp32", "train")])
def test_missing_weights_name_the_command(run: Path, paper: Paper, precision: str, command: str) -> None:
    for file in run.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UsageError, match=f"does not exist; `edgemtl {command}`"):
        convert.convert(run, target="paper", precision=precision)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recipe.json does not exist"):
        convert.convert(tmp_path, target="openvino")
