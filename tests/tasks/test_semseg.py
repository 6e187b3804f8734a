import numpy as np
import pytest

from edgemtl.ground.errors import UsageError
from edgemtl.tasks._labels import palette
from edgemtl.tasks.human_parts import HumanParts
from edgemtl.tasks.semseg import NYUD_CLASSES, PASCAL_CLASSES, Semseg


def test_scores_equal_plain_loops():
    rng = np.random.default_rng(0)
    task = Semseg(classes=tuple("abcdef"))
    meter, pairs = task.meter(), []
    for _ in range(3):
        label = rng.choice([0, 1, 2, 3, 255], (9, 11)).astype(np.uint8)  # e occurs nowhere, f is never labelled
        prediction = rng.choice([0, 1, 2, 3, 5], (9, 11)).astype(np.uint8)
        prediction[:4] = np.where(label[:4] == 255, 0, label[:4])
        meter.update(prediction, label)
        pairs += [(p, y) for p, y in zip(prediction.ravel().tolist(), label.ravel().tolist()) if y != 255]
    ious = []
    for c in range(6):
        both = sum(p == c and y == c for p, y in pairs)
        either = sum(p == c or y == c for p, y in pairs)
        ious.append(100 * both / either if either else 0)
    scores = meter.scores()
    assert scores["miou"] == pytest.approx(sum(ious) / 6)
    assert scores["miou_present"] == pytest.approx(sum(ious[:4]) / 4)
    assert scores["pixacc"] == pytest.approx(100 * sum(p == y for p, y in pairs) / len(pairs))


def test_an_absent_class_counts_zero():
    meter = HumanParts().meter()
    label = np.array([[0, 1, 1, 255]], np.uint8)
    meter.update(label, label)
    assert meter.scores() == {"miou": pytest.approx(200 / 7), "miou_present": 100, "pixacc": 100}


def test_nothing_labelled_has_no_score():
    meter = HumanParts().meter()
    meter.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert all(np.isnan(value) for value in meter.scores().values())
    assert np.isnan(meter.constant())


def test_the_best_constant_is_the_most_frequent_class():
    task = Semseg(classes=tuple("abcd"))
    labels = [np.array([[0, 1, 1, 255, 255, 255]], np.uint8), np.array([[2], [1], [0]], np.uint8)]
    meter = task.meter()
    for label in labels:
        meter.update(np.full_like(label, 3), label)  # what the network predicts has no say
    assert meter.constant() == pytest.approx(100 * 3 / 6 / 4)
    for cls in range(4):
        constant = task.meter()
        for label in labels:
            constant.update(np.full_like(label, cls), label)
        assert (constant.scores()["miou"] == pytest.approx(meter.constant())) == (cls == 1)


def test_a_class_the_task_has_not_is_an_error():
    with pytest.raises(UsageError, match="holds class 2; allowed: 0 to 1"):
        Semseg(classes=("a", "b")).meter().update(np.zeros((1, 2), np.uint8), np.array([[0, 2]], np.uint8))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.float32])
def test_decode_repeats_class_ids(dtype):
    ids = np.array([[0, 1, 39], [5, 2, 7]])
    decoded = Semseg(classes=NYUD_CLASSES).decode(ids.astype(dtype), (8, 12))
    assert decoded.dtype == np.uint8
    assert (decoded == ids.repeat(4, 0).repeat(4, 1)).all()


def test_paint_and_legend_agree():
    task = Semseg(classes=NYUD_CLASSES)
    ids = np.array([[0, 3, 39, 255]], np.uint8)
    assert task.paint(ids)[0].tolist() == [list(rgb) for _, rgb in task.legend(ids)]
    assert [text for text, _ in task.legend(ids)] == ["wall", "bed", "otherprop", "ignored"]
    assert len(task.legend()) == 41


def test_colours_are_distinct_and_do_not_depend_on_the_number_of_classes():
    colours = palette(40)[:40].astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(40, dtype=int)
    assert apart.min() >= 60
    assert (palette(7)[:7] == colours[:7]).all()
    assert len(np.unique(palette(120)[:120], axis=0)) == 120


def test_class_lists():
    assert len(NYUD_CLASSES) == len(set(NYUD_CLASSES)) == Semseg(classes=NYUD_CLASSES).channels == 40
    assert len(PASCAL_CLASSES) == len(set(PASCAL_CLASSES)) == 21
    assert (NYUD_CLASSES[0], NYUD_CLASSES[19], NYUD_CLASSES[39]) == ("wall", "floor mat", "otherprop")
    assert HumanParts().channels == 7
