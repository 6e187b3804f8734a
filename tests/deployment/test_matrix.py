"""matrix: does what is missing, only that, and tells it in one table."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemtl.deployment import convert, matrix
from edgemtl.device import processor
from edgemtl.device.predictor import smooth_frames
from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import add_json, read_json, sha256, write_json
from edgemtl.networks import checkpoint
from edgemtl.quantization import weights
from edgemtl.records import artifact
from edgemtl.records.run import Run
from tests import toy

pytest.importorskip("openvino")

pytestmark = pytest.mark.slow
ALL = [f"{stage} {name}" for name in ("fp32", "fp16", "int8") for stage in ("convert", "verify", "evaluate")]


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    return {"float": toy.deployed("fp32"), "int8": toy.deployed("int8")}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: dict[str, Any]) -> Path:
    """A run of the toy network; converting and verifying are real, scores are made up."""
    return begin(tmp_path / "run", monkeypatch, references)


def begin(folder: Path, patch: pytest.MonkeyPatch, references: dict[str, Any]) -> Path:
    patch.setattr(weights, "load", lambda run, form: references[form])
    images, found = [{"image": frame} for frame in smooth_frames((96, 128), 2)], registry.load

    def load(kind: str, name: str) -> Any:
        data = type("module", (), {"open": staticmethod(lambda root, split, tasks, **options: images)})
        return data if kind == "data" else found(kind, name)

    patch.setattr(registry, "load", load)
    made = toy.write_run(folder)
    toy.write_ledger(made, references["int8"])
    return made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return noted(monkeypatch)


def noted(patch: pytest.MonkeyPatch) -> list[str]:
    """Every stage that ran."""
    noted: list[str] = []
    really_convert, really_verify = convert.convert, matrix.verify

    def name(folder: Path) -> str:
        return artifact.read(folder).precision

    def converted(run: Path, *, target: str, precision: str) -> Path:
        noted.append(f"convert {precision}")
        return really_convert(run, target=target, precision=precision)

    def verified(folder: Path, **options: Any) -> Any:
        noted.append(f"verify {name(folder)}")
        return really_verify(folder, frames=1, **options)

    def scored(path: Path, *, weights: str = "", limit: int | None = None, **options: Any) -> dict[str, Any]:
        noted.append(f"evaluate {weights or name(path)}")
        loss = 0.0 if weights == "float" else 0.01
        tasks = {
            name: {task.headline: 50 * (1 - loss if task.higher_is_better else 1 + loss)}
            for name, task in toy.TASKS.items()
        }
        of = (
            {"weights_sha256": sha256(path / f"{weights}.safetensors")}
            if weights
            else {"digest": artifact.digest(artifact.read(path))}
        )
        entry = {"frames": limit or 3, "split": "val", "tasks": tasks, **of}
        if limit is None:
            add_json(path / "scores.json" if weights else path.parent / "scores.json", weights or path.name, entry)
        return entry

    patch.setattr(convert, "convert", converted)
    patch.setattr(matrix, "verify", verified)
    patch.setattr(matrix, "evaluate", scored)
    return noted


@pytest.fixture(scope="module")
def finished(references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run whose artifacts in OpenVINO are all made, verified and scored, and what `matrix` said and called."""
    folder = tmp_path_factory.mktemp("finished")
    page = folder / "docs" / "matrix.md"
    with pytest.MonkeyPatch.context() as patch:
        made, calls = begin(folder / "run", patch, references), noted(patch)
        [rows] = matrix.matrix([made], targets=["openvino"], out=page).values()
    return SimpleNamespace(run=made, rows=rows, calls=calls, page=page.read_text())


@pytest.fixture
def done(run: Path, finished: SimpleNamespace) -> Path:
    """The same run once more."""
    return Path(shutil.copytree(finished.run, run, dirs_exist_ok=True))


def test_everything_is_done_once(finished: SimpleNamespace, done: Path, calls: list[str]) -> None:
    rows, text = finished.rows, finished.page
    assert finished.calls == ["evaluate float", "evaluate int8", *ALL]
    assert [(row.target, row.precision) for row in rows[2:]] == [("openvino", p) for p in ("fp32", "fp16", "int8")]
    assert all(row.ok and row.megabytes and row.difference for row in rows[2:])
    assert rows[0].delta_m == 0 and rows[-1].delta_m == pytest.approx(-1)
    entries = len(read_json(done / "scales.json")["quantized"])
    assert rows[-1].ledger == f"{entries} of {entries}" and not rows[-2].ledger
    assert rows[-1].checked.startswith("executed here: CPU")
    assert text.count("| openvino |") == 3 and "-1.00 %" in text and f"{entries} of {entries}" in text

    assert matrix.matrix([done], targets=["openvino"]) == {done: rows}
    assert calls == []


def test_only_what_is_of_other_weights_is_done_again(done: Path, calls: list[str]) -> None:
    reference = weights.load(done, "int8")
    checkpoint.save(done / "int8.safetensors", {}, {"note": "fine-tuned further"})
    toy.write_ledger(done, reference)
    matrix.matrix([done], targets=["openvino"])
    assert calls == ["evaluate int8", "convert int8", "verify int8", "evaluate int8"]


def test_a_difference_fails_after_the_table(done: Path, calls: list[str]) -> None:
    entry = read_json(done / "verify.json")["openvino"]
    add_json(done / "verify.json", "openvino", entry | {"ok": False})
    page = done / "matrix.md"
    with pytest.raises(CheckFailed, match="openvino int8"):
        matrix.matrix([done], targets=["openvino"], out=page)
    assert "FAILED" in page.read_text()


@pytest.fixture
def unscored(done: Path) -> Path:
    """A run whose artifacts are made and verified."""
    (done / "scores.json").unlink()
    return done


def test_scores_over_a_part_are_kept_apart(unscored: Path, calls: list[str]) -> None:
    [rows] = matrix.matrix([unscored], targets=["openvino"], limit=2, out=unscored / "page.md").values()
    assert not (unscored / "scores.json").exists() and rows[-1].delta_m == pytest.approx(-1)
    assert "over 2 frames" in (unscored / "page.md").read_text() and "--limit 2" in (unscored / "page.md").read_text()
    calls.clear()
    matrix.matrix([unscored], targets=["openvino"], limit=2)
    assert calls == []
    matrix.matrix([unscored], targets=["openvino"], limit=1)
    assert calls == [call for call in ["evaluate float", "evaluate int8", *ALL] if call.startswith("evaluate")]


def test_a_target_that_is_missing_here_is_a_row(run: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(run: Path, **options: Any) -> Path:
        raise UsageError("no such package")

    monkeypatch.setattr(convert, "convert", missing)
    [rows] = matrix.matrix([run], targets=["openvino"]).values()
    assert [row.checked for row in rows[2:]] == ["not converted: no such package"] * 3


def test_the_page_says_what_was_typed_and_what_ran(unscored: Path, calls: list[str], tmp_path: Path) -> None:
    page, data = tmp_path / "my page.md", tmp_path / "data"
    matrix.matrix([unscored], targets=["openvino"], limit=2, out=page)
    assert f"edgemtl matrix {unscored} --target openvino --limit 2 --out '{page}'\n" in page.read_text()
    assert f"Of 3 artifacts: 3 executed by their targets' own runtimes ({processor.name()})." in page.read_text()
    matrix.matrix([unscored], data=data, targets=["openvino"], limit=2, out=page)
    assert f"edgemtl matrix {unscored} --target openvino --data {data} --limit 2 --out" in page.read_text()

    kept = read_json(unscored / "verify.json")
    kept["openvino"] |= {"machine": "Jetson Orin"}
    kept["openvino-fp32"] |= {"how": "evaluated"}
    write_json(unscored / "verify.json", kept)
    matrix.matrix([unscored], targets=["openvino"], limit=2, out=page)
    text = page.read_text()
    assert "executed on Jetson Orin: CPU" in text and "2 executed by their targets' own runtimes (" in text
    assert "Jetson Orin)" in text and f"1 evaluated alone ({processor.name()})." in text


def test_what_cannot_be_scored_is_a_row_that_says_why(
    unscored: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = matrix.evaluate

    def evaluate(path: Path, **options: Any) -> dict[str, Any]:
        if path.name == "openvino-fp16":
            raise CheckFailed("evaluate, frame 3: depth is NaN")
        return scored(path, **options)

    monkeypatch.setattr(matrix, "evaluate", evaluate)
    with pytest.raises(CheckFailed, match="did not pass: .*run, openvino fp16$"):
        matrix.matrix([unscored], targets=["openvino"])
    row = matrix._artifact(Run(unscored), "openvino", "fp16", None, None)
    assert row.checked.endswith("; not scored: evaluate, frame 3: depth is NaN")
    assert not row.ok and row.headlines == {} and row.delta_m is None


def test_what_has_no_number_is_an_empty_cell() -> None:
    nothing = matrix.MatrixRow("openvino", "int8", headlines=dict.fromkeys(toy.TASKS, float("nan")))
    assert matrix._cells(nothing, toy.TASKS) == ["openvino", "int8", *[""] * (5 + len(toy.TASKS))]


def test_what_has_no_self_test_is_made_again(run: Path, calls: list[str]) -> None:
    pytest.importorskip("onnxruntime")
    matrix.matrix([run], targets=["onnx"])
    made = artifact.read(run / "onnx-fp32")
    files = {name: file for name, file in made.files.items() if name != artifact.SELFTEST}
    artifact.write(run / "onnx-fp32", made.model_copy(update={"files": files}))
    calls.clear()
    matrix.matrix([run], targets=["onnx"])
    assert "convert fp32" in calls and artifact.SELFTEST in artifact.read(run / "onnx-fp32").files


def test_what_checks_said_is_told_once() -> None:
    def check(name: str, text: str, ok: bool = True) -> dict[str, Any]:
        return {"name": name, "ok": ok, "text": text}

    checks = [check("lint for 8.6", "nothing found"), check("lint for 10.3", "nothing found"), check("parser", "taken")]
    here = processor.name()
    found = {"how": "stand-in", "device": "ONNX Runtime", "ok": True, "checks": checks}
    assert matrix._checks(found) == ("lint for 8.6, lint for 10.3: nothing found", "parser: taken")
    assert matrix._checked(found) == "stand-in: ONNX Runtime"
    assert matrix._checked(found | {"machine": here}) == "stand-in here: ONNX Runtime"
    assert matrix._checked(found | {"machine": "Orin", "how": "executed"}) == "executed on Orin: ONNX Runtime"
    failed = found | {"ok": False, "checks": [*checks, check("builder", "no memory", False)]}
    assert matrix._checked(failed) == "FAILED; builder: no memory; stand-in: ONNX Runtime"


def test_a_verification_that_breaks_off_is_a_failure_with_its_reason(
    done: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (done / "openvino-fp32" / "manifest.json").unlink()  # made again, so that there is an older result

    def broken(folder: Path, **_: Any) -> None:
        raise CheckFailed(f"{folder}: depth has shape (1, 2)")

    add_json(done / "verify.json", "openvino-fp32", {"digest": "of other files", "ok": True, "tasks": {}})
    monkeypatch.setattr(matrix, "verify", broken)
    with pytest.raises(CheckFailed, match="did not pass: .*openvino fp32"):
        matrix.matrix([done], targets=["openvino"])
