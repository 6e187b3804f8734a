import numpy as np
import pytest
from pydantic import ValidationError

from edgemtl.tasks.sal import Saliency


def test_maxf_equals_plain_loops():
    rng = np.random.default_rng(0)
    meter, pairs = Saliency().meter(), []
    for height in (6, 11):
        label = rng.choice([0, 1, 255], (height, 9)).astype(np.uint8)
        prediction = np.clip(0.3 * (label == 1) + rng.random(label.shape) * 0.8, 0, 1).astype(np.float32)
        prediction[0] = np.float32(0.5)  # exactly at a threshold: it counts as salient
        meter.update(prediction, label)
        pairs += [(p, y) for p, y in zip(prediction.ravel().tolist(), label.ravel().tolist()) if y != 255]
    best = 0
    for k in range(1, 20):
        threshold = float(np.float32(k) / np.float32(20))
        hit = sum(p >= threshold and y == 1 for p, y in pairs)
        predicted, salient = sum(p >= threshold for p, _ in pairs), sum(y == 1 for _, y in pairs)
        if hit:
            precision, recall = hit / predicted, hit / salient
            best = max(best, 1.3 * precision * recall / (0.3 * precision + recall))
    assert meter.scores()["maxf"] == pytest.approx(100 * best)


@pytest.mark.parametrize("value, maxf", [(1, 100), (0.05, 100), (0.049, 0), (0, 0)])  # 0.05 reaches the first threshold
def test_right_and_wrong(value, maxf):
    meter = Saliency().meter()
    label = np.array([[0, 1]], np.uint8)
    meter.update(np.array([[0, value]], np.float32), label)
    assert meter.scores()["maxf"] == pytest.approx(maxf)


def test_a_split_in_which_nothing_is_salient_scores_zero_and_nothing_labelled_has_no_score():
    meter = Saliency().meter()
    assert np.isnan(meter.scores()["maxf"]) and np.isnan(meter.constant())
    meter.update(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8))
    assert meter.scores()["maxf"] == meter.constant() == 0


def test_the_best_constant_is_everything_salient():
    meter, ones = Saliency().meter(), Saliency().meter()
    for label in ([[0, 1, 0, 255]], [[0], [1]]):
        label = np.array(label, np.uint8)
        meter.update(np.zeros(label.shape, np.float32), label)
        ones.update(np.ones(label.shape, np.float32), label)
    assert meter.constant() == pytest.approx(100 * 1.3 * 0.4 / (0.3 * 0.4 + 1))  # P 2/5, R 1
    assert ones.scores()["maxf"] == pytest.approx(meter.constant())


def test_outputs():
    assert Saliency().channels == 1 and Saliency(outputs=2).channels == 2
    with pytest.raises(ValidationError):
        Saliency(outputs=3)


def test_paint_and_legend_agree():
    picture = Saliency().paint(np.array([[0, 128 / 255, 1]], np.float32))[0]
    assert picture.tolist() == [list(rgb) for _, rgb in Saliency().legend(np.zeros((1, 1), np.float32))]
