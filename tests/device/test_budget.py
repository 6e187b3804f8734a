"""Budgets: one grammar, and none that cannot fail."""

import pytest

from edgemtl import tasks
from edgemtl.device.budget import Allowed, check_names, parse_allowances, score_directions
from edgemtl.device.evaluate import against_baseline
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError

EVERY = {
    name: tasks.build(name, {"classes": ["a", "b"]} if name == "semseg" else {}) for name in registry.names("tasks")
}


def test_a_budget_is_read() -> None:
    assert parse_allowances(
        "semseg.miou=-0.5, depth.rmse=+1%,normals.within_11.25=-1,delta_m=-1,latency=+5%", "--budget"
    ) == [
        Allowed("semseg.miou", -0.5, False),
        Allowed("depth.rmse", 1.0, True),
        Allowed("normals.within_11.25", -1.0, False),
        Allowed("delta_m", -1.0, False),
        Allowed("latency", 5.0, True),
    ]


@pytest.mark.parametrize(
    "text", ["", "semseg", "semseg.miou", "semseg.miou=", "semseg=-1", "a.b=1", "a.b=-x", "a.b=-1,", "a.b=-1%%"]
)
def test_a_budget_that_cannot_be_read_is_one_line_with_the_syntax(text: str) -> None:
    with pytest.raises(UsageError, match="in --budget: a budget is task.score=") as caught:
        parse_allowances(text, "--budget")
    assert "\n" not in str(caught.value)


def test_one_score_has_one_limit() -> None:
    with pytest.raises(UsageError, match="--budget limits depth.rmse twice"):
        parse_allowances("depth.rmse=+1,depth.rmse=+100%", "--budget")


@pytest.mark.parametrize("name", score_directions(EVERY))
@pytest.mark.parametrize("unit", ["", "%"])
def test_every_score_has_budgets_that_can_fail_and_no_others(name: str, unit: str) -> None:
    """A score of 90 that falls to 1, or rises to 179, breaks a budget of the right sign; the wrong sign is refused."""
    higher = score_directions(EVERY)[name]
    right, wrong = (f"{name}={sign}1{unit}" for sign in ("-+" if higher else "+-"))
    with pytest.raises(UsageError, match="is better, so its budget starts with"):
        check_names(parse_allowances(wrong, "--budget"), "--budget", score_directions(EVERY))
    allowed = parse_allowances(right, "--budget")
    check_names(allowed, "--budget", score_directions(EVERY))
    base = {task: dict.fromkeys(made.scores, 90.0) for task, made in EVERY.items()}
    bad = {task: {k: 1.0 if up else 179.0 for k, up in made.scores.items()} for task, made in EVERY.items()}
    assert [row.name for row in against_baseline(bad, base, EVERY, allowed) if not row.ok] == [name]
    assert all(row.ok for row in against_baseline(base, base, EVERY, allowed))
