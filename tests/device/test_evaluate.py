"""Scoring and budgets, on a toy task whose scores can be worked out by hand."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgemtl.device import budget
from edgemtl.device import evaluate as module
from edgemtl.device.evaluate import against_baseline, evaluate, take_scores
from edgemtl.device.predictor import Predictor
from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import read_json, sha256, write_json
from edgemtl.records import artifact, recipe
from edgemtl.tasks import Fit, Meter, Size, Task


class Error:
    """Sum of absolute errors over all pixels, divided at the end."""

    def __init__(self) -> None:
        self.total, self.pixels = 0.0, 0

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        assert prediction.shape == label.shape
        self.total += float(np.abs(prediction - label).sum())
        self.pixels += label.size

    def scores(self) -> dict[str, float]:
        return {"error": self.total / self.pixels, "pixels": float(self.pixels)}

    def constant(self) -> float:
        return 123.0


class Lower(Task):
    name = "lower"
    title = "Lower is better"
    headline = "error"
    scores = {"error": False, "pixels": True}

    def decode(self, map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.full(size, map.flat[0])

    def meter(self) -> Meter:
        return Error()


class Higher(Lower):
    name = "higher"
    headline = "pixels"


TASKS: dict[str, Task] = {"lower": Lower(), "higher": Higher()}


def samples(count: int = 3) -> list[dict[str, np.ndarray]]:
    """Frames of another size than their labels; the right answer for frame i is i."""
    return [
        {"image": np.full((6, 8, 3), i, np.uint8), "lower": np.full((2 + i, 4), float(i)), "higher": np.zeros((2, 2))}
        for i in range(count)
    ]


class Model(NamedTuple):
    """What a network takes and gives."""

    tasks: dict[str, Task] = TASKS
    size: Size = (6, 8)
    fit: Fit = "stretched"


def score(session: Any, samples: Any, model: Any = None, **options: Any) -> dict[str, dict[str, float]]:
    meters = take_scores(session, samples, model or Model(), quiet=True, **options)
    return {name: meter.scores() for name, meter in meters.items()}


def constant(frame: np.ndarray) -> dict[str, np.ndarray]:
    return {"lower": np.ones((3, 4)), "higher": np.zeros((3, 4))}


def test_pixels_of_the_whole_split_count_alike() -> None:
    scores = score(constant, samples())
    # |1 - i| over (2 + i) x 4 pixels: 8 x 1 + 12 x 0 + 16 x 1, of 36
    assert scores == {"lower": {"error": 24 / 36, "pixels": 36}, "higher": {"error": 0, "pixels": 12}}


def test_a_limit_takes_frames_evenly_spaced() -> None:
    # Of five frames the first, the middle and the last: |1 - i| over (2 + i) x 4 pixels is 8, 16 and 72, of 48.
    assert score(constant, samples(5), limit=3)["lower"] == {"error": 96 / 48, "pixels": 48}
    assert score(constant, samples(5), limit=2)["lower"] == {"error": 80 / 32, "pixels": 32}
    assert score(constant, samples(5), limit=1)["lower"] == {"error": 1.0, "pixels": 8}
    assert score(constant, samples(), limit=99) == score(constant, samples())


def test_a_sample_without_a_label_has_no_say() -> None:
    given = samples()
    del given[0]["lower"], given[2]["higher"]
    scores = score(constant, given)
    assert scores == {"lower": {"error": 16 / 28, "pixels": 28}, "higher": {"error": 0, "pixels": 8}}


def test_an_empty_split_is_one_clear_line() -> None:
    with pytest.raises(UsageError, match="nothing to evaluate: 0 frames"):
        score(constant, [])


@pytest.mark.parametrize(
    "text, value, ok",
    [
        ("lower.error=+0.5", 10.5, True),
        ("lower.error=+0.5", 10.6, False),
        ("lower.error=+1%", 10.1, True),
        ("lower.error=+1%", 10.11, False),
        ("lower.error=+0", 10.0, True),
        ("lower.error=+1", 1.0, True),  # better is always allowed
        ("lower.error=+1", math.nan, False),
        ("delta_m=-5", 11.0, True),  # one of two tasks 10 % worse
        ("delta_m=-4.9", 11.0, False),
    ],
)
def test_a_change_is_held_against_its_budget(text: str, value: float, ok: bool) -> None:
    base = {"lower": {"error": 10.0}, "higher": {"pixels": 50.0}}
    rows = against_baseline(
        {"lower": {"error": value}, "higher": {"pixels": 50.0}}, base, TASKS, budget.parse_allowances(text, "--budget")
    )
    assert all(row.ok for row in rows) == ok
    assert [row.name for row in rows] == ["lower.error", "higher.pixels", "delta_m"]


def test_delta_m_counts_each_task_by_its_direction() -> None:
    base = {"lower": {"error": 10.0}, "higher": {"pixels": 50.0}}
    rows = against_baseline({"lower": {"error": 9.0}, "higher": {"pixels": 52.0}}, base, TASKS, [])
    assert rows[-1].value == pytest.approx((10 + 4) / 2)


@pytest.mark.parametrize("text", ["delta_m=-5", "lower.error=+5%"])
def test_what_is_relative_to_a_score_of_zero_fails_a_budget(text: str) -> None:
    base = {"lower": {"error": 0.0}, "higher": {"pixels": 50.0}}
    rows = against_baseline(
        {"lower": {"error": 1.0}, "higher": {"pixels": 50.0}}, base, TASKS, budget.parse_allowances(text, "--budget")
    )
    assert [(row.name, row.shown) for row in rows if not row.ok] == [(text.partition("=")[0], "undefined")]
    assert all(row.ok for row in against_baseline(base, base, TASKS, budget.parse_allowances(text, "--budget")))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with the toy tasks; `int8` predicts 1.1 where `float` predicts 1."""
    stated = recipe.load("nyud_edge").model_copy(update={"tasks": TASKS})
    monkeypatch.setattr(module.recipe, "read", lambda path: stated)
    write_json(tmp_path / "recipe.json", {})
    (tmp_path / "float.safetensors").write_bytes(b"float")
    (tmp_path / "int8.safetensors").write_bytes(b"int8")

    def opened(root: Path | None, split: str, tasks: tuple[str, ...], **options: Any) -> list[dict[str, np.ndarray]]:
        assert tasks == ("lower", "higher")
        sizes = [(2 + i, 4) for i in range(3)] if split == "val" else []
        return [
            {"image": np.full((*size, 3), i, np.uint8), "lower": np.full(size, float(i)), "higher": np.zeros(size)}
            for i, size in enumerate(sizes)
        ]

    def session(subject: Any, device: str | None, untested: bool) -> Any:
        factor = {"float": 1.0, "int8": 1.1}[subject.name]
        return lambda frame: {name: map * factor for name, map in constant(frame).items()}

    monkeypatch.setattr(registry, "load", lambda kind, name: SimpleNamespace(open=opened))
    monkeypatch.setattr(module, "_session", session)
    return tmp_path


def test_scores_of_a_whole_split_are_kept_with_what_they_are_of(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run)
    printed = capsys.readouterr().out
    assert "lower.error" in printed and "constant" in printed and "123" in printed
    evaluate(run, weights="int8", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == "int8" and shown["constant"] == {"lower": 123, "higher": 123}
    kept = read_json(run / "scores.json")
    assert set(kept) == {"float", "int8"}
    assert kept["float"]["frames"] == 3 and kept["float"]["constant"] == {"lower": 123, "higher": 123}
    assert kept["float"]["weights_sha256"] == sha256(run / "float.safetensors")
    assert kept["float"]["tasks"]["lower"]["error"] == 24 / 36


def test_scores_of_a_part_are_not_kept(run: Path) -> None:
    assert evaluate(run, limit=1)["frames"] == 1
    assert not (run / "scores.json").exists()


def test_a_budget_that_holds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate(run, weights="int8", budget="lower.error=+6%,delta_m=-3")
    assert [row["ok"] for row in result["budget"]] == [True, True, True]
    assert result["budget"][-1]["value"] == pytest.approx(-100 * 0.4 / 24 / 2)
    assert "delta_m" in capsys.readouterr().out
    assert "float" in read_json(run / "scores.json")  # computed because it was missing


def test_a_broken_budget_fails_after_the_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckFailed, match=r"over budget: lower.error \+1.67% \(allowed \+1%\)"):
        evaluate(run, weights="int8", budget="lower.error=+1%")
    assert "too much" in capsys.readouterr().out


def test_a_baseline_of_older_weights_is_computed_again(run: Path) -> None:
    evaluate(run)
    kept = read_json(run / "scores.json")
    kept["float"]["tasks"]["lower"]["error"] = 1e-9
    write_json(run / "scores.json", kept)
    with pytest.raises(CheckFailed):
        evaluate(run, weights="int8", budget="lower.error=+6%")  # the kept score is believed
    (run / "float.safetensors").write_bytes(b"trained again")
    evaluate(run, weights="int8", budget="lower.error=+6%")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weights": "int4"}, "unknown weights 'int4'"),
        ({"weights": "calibrated"}, "calibrated.safetensors does not exist; `edgemtl compress` writes it"),
        ({"split": "test"}, "the test split of nyud is empty"),
        ({"limit": 0}, "nothing to evaluate: 3 frames, limit 0"),
        ({"budget": ""}, "cannot read '' in --budget"),
        ({"budget": "lowr.error=+1"}, "unknown entry of --budget 'lowr.error'; did you mean 'lower.error'?"),
        ({"budget": "lower.eror=+1"}, "unknown entry of --budget 'lower.eror'; did you mean 'lower.error'?"),
        ({"budget": "latency=+1%"}, "unknown entry of --budget 'latency'; known: delta_m, higher.error"),
        ({"budget": "lower.error=-1"}, "lower is better, so its budget starts with '\\+'"),
        ({"budget": "higher.pixels=+1"}, "higher is better, so its budget starts with '-'"),
        ({"budget": "delta_m=+1"}, "higher is better, so its budget starts with '-'"),
    ],
)
def test_wrong_use_is_one_clear_line(run: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(run, **arguments)


def test_a_budget_is_refused_before_anything_is_computed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "take_scores", lambda *_, **__: pytest.fail("it computes"))
    for wrong in ("lower.eror=+1", "lower.pixels=+1", "higher.error=-1%"):
        with pytest.raises(UsageError, match="entry of --budget|so its budget starts with"):
            evaluate(run, budget=wrong)


def test_maps_that_cannot_be_right_are_not_scored(unsound: tuple[Path, str]) -> None:
    folder, problem = unsound
    made = artifact.read(folder)
    frames = [{"image": np.full((48, 64, 3), 128, np.uint8), "semseg": np.ones((48, 64), np.uint8)}] * 4
    with pytest.raises(CheckFailed, match=f"^val, frame 2: {re.escape(problem)}$"):
        score(Predictor(folder).session, frames, made, title="val")


def test_what_has_no_score_is_null_in_json(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def strictly(text: str) -> Any:
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    monkeypatch.setattr(Error, "scores", lambda self: {"error": math.nan, "pixels": math.inf})
    monkeypatch.setattr(Error, "constant", lambda self: math.nan)
    with pytest.raises(CheckFailed, match=r"over budget: lower.error undefined \(allowed \+6%\)"):
        evaluate(run, weights="int8", budget="lower.error=+6%", as_json=True)
    assert strictly(capsys.readouterr().out)["tasks"]["lower"] == {"error": None, "pixels": None}
    assert strictly((run / "scores.json").read_text())["float"]["constant"]["lower"] is None
    with pytest.raises(CheckFailed, match=r"over budget: lower.error undefined"):
        evaluate(run, weights="int8", budget="lower.error=+6%")  # with the scores that are kept
    assert "nan" in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [False, True])
def test_where_nothing_can_be_written_the_scores_are_printed(
    run: Path, read_only: None, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="scores.json: the file system is read-only"):
        evaluate(run, as_json=as_json)
    assert "error" in capsys.readouterr().out
    with pytest.raises(UsageError, match="scores.json: the file system is read-only"):
        evaluate(run, weights="int8", budget="lower.error=+6%", as_json=as_json)
    assert "delta_m" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="over budget: lower.error .*; cannot write .*the file system is read-only"):
        evaluate(run, weights="int8", budget="lower.error=+1%", as_json=as_json)


def test_a_baseline_that_cannot_be_scored_loses_no_scores(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = module._measured

    def measured(subject: Any, **options: Any) -> Any:
        if subject.name == "float":
            raise UsageError("its weights are damaged")
        return once(subject, **options)

    monkeypatch.setattr(module, "_measured", measured)
    with pytest.raises(UsageError, match="damaged"):
        evaluate(run, weights="int8", budget="lower.error=+6%")
    assert "lower.error" in capsys.readouterr().out and set(read_json(run / "scores.json")) == {"int8"}


def test_a_baseline_without_a_score_of_today_is_computed_again(run: Path) -> None:
    evaluate(run)
    kept = read_json(run / "scores.json")
    del kept["float"]["tasks"]["lower"]["pixels"]
    write_json(run / "scores.json", kept)
    assert evaluate(run, weights="int8", budget="lower.pixels=-1")["budget"][2]["baseline"] == 36


def test_a_folder_that_is_neither_run_nor_artifact(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is neither a run .* nor an artifact"):
        evaluate(tmp_path)


def test_of_padded_frames_their_own_pixels_alone_are_judged():
    """The map is right inside the frame and wrong in the padding around it, at half the canvas' resolution."""

    class Where(Lower):
        name = "where"

        def decode(self, map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
            return map.repeat(2, 0).repeat(2, 1)[: size[0], : size[1]]

    frame = {"image": np.full((4, 6, 3), 200, np.uint8), "where": np.ones((4, 6))}
    seen = []

    def session(canvas: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(canvas)
        return {"where": (canvas[::2, ::2, 0] == 200).astype(float)}

    model = Model({"where": Where()}, (8, 10), "padded")
    assert score(session, [frame], model)["where"] == {"error": 0, "pixels": 24}
    assert seen[0].shape == (8, 10, 3) and (seen[0][2:6, 2:8] == 200).all() and (seen[0] == 200).sum() == 4 * 6 * 3


def test_away_from_its_run_an_artifact_needs_its_manifest_alone(
    fake_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one of a recipe that is not installed here, for fewer tasks than that had."""
    pytest.importorskip("embreex")
    made = artifact.read(fake_artifact)
    options = {"val": 2, "size": (48, 64)}
    fewer = {name: made.tasks[name] for name in ("depth", "normals")}
    changes = {"recipe": "of_my_own", "tasks": fewer, "data": recipe.Data(name="scenes", options=options)}
    artifact.write(fake_artifact, made.model_copy(update=changes))
    entry = evaluate(fake_artifact, untested=True)
    assert list(entry["tasks"]) == ["depth", "normals"] and entry["frames"] == 2
    assert "depth.rmse" in capsys.readouterr().out

    artifact.write(fake_artifact, made.model_copy(update=changes | {"data": None}))
    with pytest.raises(UsageError, match="says no data set, as older versions did not; convert again"):
        evaluate(fake_artifact, untested=True)


def test_the_manifest_counts_and_not_the_recipe_of_its_name(fake_artifact: Path) -> None:
    """One without the data set's name takes it from the installed recipe, but not the tasks."""
    pytest.importorskip("embreex")
    made = artifact.read(fake_artifact)
    artifact.write(fake_artifact, made.model_copy(update={"tasks": {"depth": made.tasks["depth"]}}))
    assert list(evaluate(fake_artifact, limit=1, untested=True)["tasks"]) == ["depth"]
