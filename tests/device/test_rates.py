"""Tasks at rates of their own: who is due when, what stands for the others, and what the app says of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgemtl import Predictor
from edgemtl.apps import camera
from edgemtl.device import rates
from edgemtl.device.camera import open_source
from edgemtl.ground.errors import UsageError

FRAME = np.zeros((48, 64, 3), np.uint8)


def test_tasks_are_due_every_so_many_frames_and_take_turns() -> None:
    plan = rates.Rates(["a", "b", "c", "d"], {"b": 4, "c": 4, "d": 3})
    due = [plan.due(frame) for frame in range(24)]
    assert due[0] == ["a", "b", "c", "d"]
    for task, number in (("a", 1), ("b", 4), ("c", 4), ("d", 3)):
        frames = [frame for frame in range(1, 24) if task in due[frame]]
        assert {later - earlier for earlier, later in zip(frames, frames[1:])} == {number}
    assert not any({"b", "c"} <= set(tasks) for tasks in due[1:])


def test_a_map_stays_until_it_is_computed_again() -> None:
    asked = []

    def only(frame: np.ndarray, tasks: list[str]) -> dict[str, np.ndarray]:
        asked.append(list(tasks))
        return {task: np.array([len(asked)]) for task in tasks}

    paced = rates.Paced(only, rates.Rates(["a", "b"], {"b": 3}))
    made = [paced(FRAME) for _ in range(5)]
    assert asked == [["a", "b"], ["a"], ["a"], ["a", "b"], ["a"]]
    assert [int(maps["a"][0]) for maps in made] == [1, 2, 3, 4, 5]
    assert [int(maps["b"][0]) for maps in made] == [1, 1, 1, 4, 4]
    assert [maps.ages for maps in made] == [{"a": 0, "b": age} for age in (0, 1, 2, 0, 1)]
    assert rates.ages(made[1]) == {"a": 0, "b": 1} and rates.ages({"a": FRAME}) == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["normals"], "--every takes TASK=N, such as normals=4, got 'normals'"),
        (["normals=two"], "got 'normals=two'"),
        (["normals=-1"], "got 'normals=-1'"),
        (["=2"], "got '=2'"),
        (["normals=2", "normals=3"], "--every names normals twice"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rates.parse(words)
    assert rates.parse(["normals=2", "edge=4"]) == {"normals": 2, "edge": 4}


def test_wrong_rates_are_one_line() -> None:
    with pytest.raises(UsageError, match="unknown task 'normal'; did you mean 'normals'"):
        rates.Rates(["depth", "normals"], {"normal": 2})
    with pytest.raises(UsageError, match="normals=0: every how many frames is a positive whole number"):
        rates.Rates(["depth", "normals"], {"normals": 0})


def test_a_runtime_that_computes_all_tasks_at_once_says_so(fake_artifact: Path) -> None:
    with pytest.raises(UsageError, match="nowhere computes all tasks of every frame; targets openvino and onnx need"):
        Predictor(fake_artifact, every={"normals": 2})


# ---- with the bundled model


@pytest.mark.slow
def test_the_bundled_models_tasks_have_their_own_rates() -> None:
    pytest.importorskip("openvino")
    whole, paced = Predictor(), Predictor(every={"normals": 3, "edge": 2})
    frames = list(np.random.default_rng(0).integers(0, 256, (5, *whole.manifest.size, 3), np.uint8))
    wanted, got = list(whole.stream(frames)), list(paced.stream(frames))
    for number, result in enumerate(got):
        assert list(result) == list(whole.manifest.tasks)
        for task, age in result.ages.items():
            np.testing.assert_array_equal(result[task], wanted[number - age][task], err_msg=f"{task}, frame {number}")
    assert [result.ages["normals"] for result in got] == [0, 1, 2, 0, 1]
    assert [result.ages["edge"] for result in got] == [0, 1, 0, 1, 0]
    assert all(result.ages["depth"] == result.ages["semseg"] == 0 for result in got)
    assert set(wanted[0].ages.values()) == {0}


@pytest.mark.slow
def test_the_app_says_how_old_a_map_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    import cv2

    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((60, 80, 3), 40 * number, np.uint8))
    edge = Predictor().manifest.tasks["edge"]
    titles = []
    found = camera.draw._cell
    monkeypatch.setattr(camera.draw, "_cell", lambda title, *rest: titles.append(title) or found(title, *rest))
    decoded = []
    decode = type(edge).decode
    monkeypatch.setattr(type(edge), "decode", lambda *args: decoded.append(1) or decode(*args))
    stats = tmp_path / "stats.jsonl"
    with open_source(str(tmp_path)) as source:
        summary = camera.run(Predictor(every={"edge": 3}), source, headless=True, stats=str(stats))
    of_edge = [title for title in titles if title.startswith(edge.title)]
    assert of_edge == [edge.title, f"{edge.title} · 1 frame ago", f"{edge.title} · 2 frames ago"] * 2
    assert len(decoded) == 2  # what is shown again is not decoded again
    assert summary.computed == {"semseg": 6, "depth": 6, "normals": 6, "edge": 2}
    lines = [json.loads(line) for line in stats.read_text().splitlines()]
    assert [line["ages"]["edge"] for line in lines] == [0, 1, 2, 0, 1, 2]
