"""A run's folder: where each file lies, what is said of one that is missing, and that no other module spells a name."""

import ast
from pathlib import Path
from typing import Iterator

import pytest

from edgemtl.ground.errors import UsageError
from edgemtl.records import artifact
from edgemtl.records.run import FORMS, Run, form_of, run_of
from tests import toy

ROOT = Path(__file__).parents[2]
FILES = {path.name for path in vars(Run("run")).values() if isinstance(path, Path)} - {"run"}
FILES |= {Run("run").weights(form).name for form in FORMS}


def test_what_is_on_disk_has_these_names() -> None:
    assert {
        "recipe.json", "metrics.jsonl", "tensorboard", "last.safetensors", "scales.json", "sensitivity.json",
        "scores.json", "matrix.json", "verify.json", "bench.json", "finetuning.safetensors", "finetuning.jsonl",
        "float.safetensors", "calibrated.safetensors", "int8.safetensors",
    } == FILES  # fmt: skip


def test_a_run_is_made_of_a_path_or_of_a_run(tmp_path: Path) -> None:
    run = Run(toy.write_run(tmp_path / "toy"))
    assert Run(run).folder == Run(str(run)).folder == tmp_path / "toy"
    assert run.exists and run.recipe.name == "toy" and run.about["recipe"]["name"] == "toy"
    assert str(run) == str(tmp_path / "toy")


def test_artifacts_lie_in_their_run(tmp_path: Path, fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(fake_artifact)
    assert run.folder == fake_artifact.parent and not run.exists
    assert run.artifacts() == {fake_artifact: artifact.read(fake_artifact)}
    (run.folder / ".openvino.1.part").mkdir()  # a conversion that was killed
    (run.folder / ".openvino.1.part" / artifact.FILE).write_text("{")
    assert list(run.artifacts()) == [fake_artifact]
    assert run_of(fake_artifact, tmp_path).folder == run_of(fake_artifact, Run(tmp_path)).folder == tmp_path
    monkeypatch.chdir(fake_artifact)
    assert run_of(Path()).folder == fake_artifact.parent


@pytest.mark.parametrize(
    ("precision", "folder", "form"),
    [("int8", "onnx", "int8"), ("fp32", "onnx-fp32", "float"), ("fp16", "onnx-fp16", "float")],
)
def test_an_artifact_is_named_after_its_target_and_made_of_one_form(precision: str, folder: str, form: str) -> None:
    assert Run("run").artifact("onnx", precision) == Path("run", folder)
    assert Run("run").artifact("onnx", precision, ["depth", "edge"]) == Path("run", f"{folder}-depth+edge")
    assert form_of(precision) == form


@pytest.mark.parametrize(("form", "command"), [("float", "train"), ("calibrated", "compress"), ("int8", "compress")])
def test_missing_weights_name_the_command_that_writes_them(tmp_path: Path, form: str, command: str) -> None:
    with pytest.raises(UsageError, match=f"{form}.safetensors does not exist; `edgemtl {command}` writes it"):
        Run(tmp_path).need(form)
    Run(tmp_path).weights(form).write_bytes(b"")
    assert Run(tmp_path).need(form) == tmp_path / f"{form}.safetensors"


def test_a_folder_without_a_recipe_is_no_run(tmp_path: Path) -> None:
    assert not Run(tmp_path).exists
    for read in (lambda run: run.recipe, lambda run: run.about):
        with pytest.raises(UsageError, match="recipe.json does not exist"):
            read(Run(tmp_path))
    Run(tmp_path).recipe_file.write_text("[]")
    assert Run(tmp_path).about == {}


def test_no_other_module_spells_the_name_of_a_file() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for folder in ("edgemtl", "targets", "apps", "recipes")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.relative_to(ROOT) != Path("edgemtl/records/run.py")
        for line, text in _spelled(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found


def _spelled(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Literals that are a file's name, or end one that is put together: f"{form}.safetensors"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in FILES:
            yield node.lineno, str(node.value)
        if isinstance(node, ast.JoinedStr) and ast.unparse(node).endswith("}.safetensors'"):
            yield node.lineno, ast.unparse(node)
