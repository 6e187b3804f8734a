"""matrix: does what is missing, only that, and tells it in one table."""

from pathlib import Path
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


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the toy network; converting and verifying are real, scores are made up."""
    references = {"float": toy.deployed("fp32"), "int8": toy.deployed("int8")}
    monkeypatch.setattr(weights, "load", lambda run, form: references[form])
    images, found = [{"image": frame} for frame in smooth_frames((96, 128), 2)], registry.load

    def load(kind: str, name: str) -> Any:
        data = type("module", (), {"open": staticmethod(lambda root, split, tasks, **options: images)})
        return data if kind == "data" else found(kind, name)

    monkeypatch.setattr(registry, "load", load)
    made = toy.write_run(tmp_path / "run")
    toy.write_ledger(made, references["int8"])
    return made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
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

    monkeypatch.setattr(convert, "convert", converted)
    monkeypatch.setattr(matrix, "verify", verified)
    monkeypatch.setattr(matrix, "evaluate", scored)
    return noted


def test_everything_is_done_once(run: Path, calls: list[str], tmp_path: Path) -> None:
    page = tmp_path / "docs" / "matrix.md"
    [rows] = matrix.matrix([run], targets=["openvino"], out=page).values()
    assert calls == ["evaluate float", "evaluate int8", *ALL]
    assert [(row.target, row.precision) for row in rows[2:]] == [("openvino", p) for p in ("fp32", "fp16", "int8")]
    assert all(row.ok and row.megabytes and row.difference for row in rows[2:])
    assert rows[0].delta_m == 0 and rows[-1].delta_m == pytest.approx(-1)
    entries = len(read_json(run / "scales.json")["quantized"])
    assert rows[-1].ledger == f"{entries} of {entries}" and not rows[-2].ledger
    assert rows[-1].checked.startswith("executed here: CPU")
    text = page.read_text()
    assert text.count("| openvino |") == 3 and "-1.00 %" in text and f"{entries} of {entries}" in text

    calls.clear()
    assert matrix.matrix([run], targets=["openvino"]) == {run: rows}
    assert calls == []


def test_only_what_is_of_other_weights_is_done_again(run: Path, calls: list[str]) -> None:
    matrix.matrix([run], targets=["openvino"])
    calls.clear()
    reference = weights.load(run, "int8")
    checkpoint.save(run / "int8.safetensors", {}, {"note": "fine-tuned further"})
    toy.write_ledger(run, reference)
    matrix.matrix([run], targets=["openvino"])
    assert calls == ["evaluate int8", "convert int8", "verify int8", "evaluate int8"]


def test_a_difference_fails_after_the_table(run: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    matrix.matrix([run], targets=["openvino"])
    entry = read_json(run / "verify.json")["openvino"]
    add_json(run / "verify.json", "openvino", entry | {"ok": False})
    page = run / "matrix.md"
    with pytest.raises(CheckFailed, match="openvino int8"):
        matrix.matrix([run], targets=["openvino"], out=page)
    assert "FAILED" in page.read_text()


def test_scores_over_a_part_are_kept_apart(run: Path, calls: list[str]) -> None:
    [rows] = matrix.matrix([run], targets=["openvino"], limit=2, out=run / "page.md").values()
    assert not (run / "scores.json").exists() and rows[-1].delta_m == pytest.approx(-1)
    assert "over 2 frames" in (run / "page.md").read_text() and "--limit 2" in (run / "page.md").read_text()
    calls.clear()
    matrix.matrix([run], targets=["openvino"], limit=2)
    assert calls == []
    matrix.matrix([run], targets=["openvino"], limit=1)
    assert calls == [call for call in ["evaluate float", "evaluate int8", *ALL] if call.startswith("evaluate")]


def test_a_target_that_is_missing_here_is_a_row(run: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(run: Path, **options: Any) -> Path:
        raise UsageError("no such package")

    monkeypatch.setattr(convert, "convert", missing)
    [rows] = matrix.matrix([run], targets=["openvino"]).values()
    assert [row.checked for row in rows[2:]] == ["not converted: no such package"] * 3


def test_the_page_says_what_was_typed_and_what_ran(
    run: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, data = tmp_path / "my page.md", tmp_path / "data"
    matrix.matrix([run], targets=["openvino"], limit=2, out=page)
    assert f"edgemtl matrix {run} --target openvino --limit 2 --out '{page}'\n" in page.read_text()
    assert f"Of 3 artifacts: 3 executed by their targets' own runtimes ({processor.name()})." in page.read_text()
    matrix.matrix([run], data=data, targets=["openvino"], limit=2, out=page)
    assert f"edgemtl matrix {run} --target openvino --data {data} --limit 2 --out" in page.read_text()

    kept = read_json(run / "verify.json")
    kept["openvino"] |= {"machine": "Jetson Orin"}
    kept["openvino-fp32"] |= {"how": "evaluated"}
    write_json(run / "verify.json", kept)
    matrix.matrix([run], targets=["openvino"], limit=2, out=page)
    text = page.read_text()
    assert "executed on Jetson Orin: CPU" in text and "2 executed by their targets' own runtimes (" in text
    assert "Jetson Orin)" in text and f"1 evaluated alone ({processor.name()})." in text


def test_what_cannot_be_scored_is_a_row_that_says_why(
    run: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = matrix.evaluate

    def evaluate(path: Path, **options: Any) -> dict[str, Any]:
        if path.name == "openvino-fp16":
            raise CheckFailed("evaluate, frame 3: depth is NaN")
        return scored(path, **options)

    monkeypatch.setattr(matrix, "evaluate", evaluate)
    with pytest.raises(CheckFailed, match="did not pass: .*run, openvino fp16$"):
        matrix.matrix([run], targets=["openvino"])
    row = matrix._artifact(Run(run), "openvino", "fp16", None, None)
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
    run: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix.matrix([run], targets=["openvino"])
    (run / "openvino-fp32" / "manifest.json").unlink()  # made again, so that there is an older result

    def broken(folder: Path, **_: Any) -> None:
        raise CheckFailed(f"{folder}: depth has shape (1, 2)")

    add_json(run / "verify.json", "openvino-fp32", {"digest": "of other files", "ok": True, "tasks": {}})
    monkeypatch.setattr(matrix, "verify", broken)
    with pytest.raises(CheckFailed, match="did not pass: .*openvino fp32"):
        matrix.matrix([run], targets=["openvino"])
