"""Runs compared with each other: delta-m against one run or one per task, and what is refused."""

from contextlib import redirect_stdout
from io import StringIO

import pytest

from edgemtl.device import scoreboard
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import write_json
from edgemtl.records import recipe

NYUD = recipe.load("nyud_fcn_edge")
GOOD = {"semseg": 30.0, "depth": 0.8, "normals": 20.0, "edge": 70.0}
HEADLINES = {"semseg": "miou", "depth": "rmse", "normals": "mean", "edge": "odsf"}


@pytest.fixture
def make(tmp_path):
    def write(name, values, frames=400, epochs=4):
        run = tmp_path / name
        tasks = {task: {HEADLINES[task]: value, "other": 1.0} for task, value in values.items()}
        stated = recipe.only(NYUD, list(values))
        write_json(run / "recipe.json", {"recipe": stated.model_dump(mode="json")})
        write_json(run / "scores.json", {"float": {"frames": frames, "tasks": tasks}, "int8": {}})
        lines = [f'{{"iteration": {20 * i}, "epoch": {i}, "loss": {{"{next(iter(values))}": {9 - i}}}}}' for i in
                 range(1, epochs)]  # fmt: skip
        (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"iteration": 9')
        return run

    return write


def test_delta_m_against_a_single_task_run_per_task(make):
    singles = [make(task, {task: value}) for task, value in GOOD.items()]
    both = make("both", {"semseg": 33.0, "depth": 0.72, "normals": 21.0, "edge": 70.0})
    two = make("two", {"depth": 0.88, "edge": 77.0})
    lines, tasks = scoreboard.scoreboard([both, two], baseline=singles)
    assert [line.name for line in lines] == ["semseg", "depth", "normals", "edge", "both", "two"]
    assert [line.delta_m for line in lines[:4]] == [None] * 4
    assert lines[4].delta_m == pytest.approx((10 + 10 - 5 + 0) / 4)
    assert lines[5].delta_m == pytest.approx((-10 + 10) / 2, abs=1e-9)
    assert lines[4].iterations == 60
    assert list(tasks) == list(GOOD)


def test_a_multi_task_run_is_a_baseline_too(make):
    base, better = make("base", GOOD), make("better", GOOD | {"depth": 0.4})
    assert scoreboard.scoreboard([base, better], baseline=[base])[0][1].delta_m == pytest.approx(12.5)
    assert len(scoreboard.scoreboard([base, better], baseline=[base])[0]) == 2
    assert scoreboard.scoreboard([better])[0][0].delta_m is None


def test_a_baseline_that_scores_zero_has_no_delta_m(make, capsys):
    weak, good = make("weak", GOOD | {"semseg": 0.0}), make("good", GOOD)
    lines, tasks = scoreboard.scoreboard([good], baseline=[weak])
    assert lines[1].delta_m is None
    scoreboard.show_table(lines, tasks)
    assert "nan" not in capsys.readouterr().out


def test_what_cannot_be_compared_is_said(make, tmp_path):
    good, depth = make("good", GOOD), make("depth", {"depth": 1.0})
    with pytest.raises(UsageError, match="no baseline has the task semseg of good"):
        scoreboard.scoreboard([good], baseline=[depth])
    with pytest.raises(UsageError, match="two baselines have the task depth"):
        scoreboard.scoreboard([good], baseline=[good, depth])
    with pytest.raises(UsageError, match="400 frames .* and 8 frames"):
        scoreboard.scoreboard([good, make("few", GOOD, frames=8)])
    (good / "scores.json").unlink()
    with pytest.raises(UsageError, match="edgemtl evaluate .*good` makes them"):
        scoreboard.scoreboard([good])
    with pytest.raises(UsageError, match="nowhere"):
        scoreboard.scoreboard([tmp_path / "nowhere"])


def test_markdown_has_a_cell_for_every_column(make):
    single, many = make("single", {"depth": 1.0}), make("many", GOOD)
    lines, tasks = scoreboard.scoreboard([single, many])
    with redirect_stdout(StringIO()) as printed:
        scoreboard.show_table(lines, tasks, markdown=True)
    rows = printed.getvalue().splitlines()
    assert {row.count("|") for row in rows} == {2 + len(GOOD) + 2}
    assert rows[2] == "| single | 1 |  |  |  |  | 60 |" and rows[3].startswith("| many | 0.8 | 30 |")


def test_curves_are_drawn_for_the_runs_that_have_the_task(make, tmp_path):
    pytest.importorskip("matplotlib")
    runs = [make("one", {"depth": 1.0}), make("two", {"semseg": 1.0}), make("none", {"edge": 1.0}, epochs=1)]
    tasks = scoreboard.scoreboard(runs)[1]
    file = tmp_path / "curves.svg"
    scoreboard.draw_curves(runs, tasks, file)
    first = file.read_bytes()
    assert first.startswith(b"<?xml") and b"</svg>" in first
    scoreboard.draw_curves(runs, tasks, file)
    assert file.read_bytes() == first
