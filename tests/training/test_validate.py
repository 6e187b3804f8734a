import math

import pytest

from edgemtl.tasks import delta_m
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.semseg import Semseg
from edgemtl.training.validate import merit

TASKS = {"semseg": Semseg(classes=("a", "b")), "depth": Depth()}


def scores(miou, rmse):
    return {"semseg": {"miou": miou}, "depth": {"rmse": rmse}}


def test_merit_differs_by_delta_m_to_first_order():
    value, baseline = {"semseg": 30.3, "depth": 0.71}, {"semseg": 30.0, "depth": 0.7}
    gain = merit(scores(*value.values()), TASKS) - merit(scores(*baseline.values()), TASKS)
    assert 100 * gain == pytest.approx(delta_m(value, baseline, TASKS), abs=0.02)


def test_merit_rewards_both_directions():
    assert merit(scores(31, 0.7), TASKS) > merit(scores(30, 0.7), TASKS) > merit(scores(30, 0.8), TASKS)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_score_that_says_nothing_is_worst(bad):
    assert merit(scores(bad, 0.7), TASKS) == -math.inf
