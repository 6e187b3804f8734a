import numpy as np
import pytest

from edgemtl.tasks._boundary import counts
from edgemtl.tasks.edge import Edge


def drawing(rng, size=(60, 80)):
    """A label of lines and a blurred, noisy probability of it."""
    import cv2

    label = np.zeros(size, np.uint8)
    for _ in range(4):
        (a, b), (c, d) = rng.integers(8, 52, (2, 2)).tolist()
        cv2.line(label, (a, b), (c, d), 1)
    probability = cv2.GaussianBlur(label.astype(np.float32), (0, 0), 1.5) * 3 + rng.random(size, np.float32) * 0.3
    return np.clip(probability, 0, 1), label


def test_odsf_is_the_best_f_of_summed_counts():
    rng = np.random.default_rng(1)
    task = Edge(tolerance=0.02, thresholds=9)
    meter, pairs = task.meter(), [drawing(rng) for _ in range(4)]
    for probability, label in pairs:
        meter.update(probability, label)
    best = []
    for threshold in np.arange(1, 10) / 10:
        matched, predicted, labelled = sum(counts(p, y, np.array([threshold]), 0.02)[:, 0] for p, y in pairs).tolist()
        precision, recall = matched / max(predicted, 1), matched / labelled
        best.append(2 * precision * recall / max(precision + recall, 1e-12))
    score = meter.scores()["odsf"]
    assert score == pytest.approx(100 * max(best))
    assert 60 < score <= 100


def test_odsf_tells_right_from_shifted_and_missing():
    label = np.zeros((120, 160), np.uint8)
    label[60, 10:150] = 1

    def score(prediction, **options):
        meter = Edge(**options).meter()
        meter.update(prediction.astype(np.float32), label)
        return meter.scores()["odsf"]

    assert score(label) == pytest.approx(100)
    assert score(np.roll(label, 2, axis=0)) == pytest.approx(100)  # 0.011 of a diagonal of 200 is 2.2 pixels
    assert score(np.roll(label, 3, axis=0)) == 0
    assert score(np.roll(label, 2, axis=0), tolerance=0.0075) == 0
    assert score(np.zeros_like(label)) == 0
    double = label | np.roll(label, 2, axis=0)  # only one of two lines can be matched: P 1/2, R 1
    assert score(double) == pytest.approx(200 / 3, abs=1)


def test_ignored_pixels_do_not_count():
    rng = np.random.default_rng(2)
    probability, label = drawing(rng)
    ignored = label.copy()
    ignored[:, 40:] = 255
    meter, cut = Edge(thresholds=5).meter(), Edge(thresholds=5).meter()
    meter.update(probability, ignored)
    cut.update(np.where(ignored == 255, rng.random(label.shape) < 0.3, probability).astype(np.float32), ignored)
    assert np.abs(meter.scores()["odsf"] - cut.scores()["odsf"]) < 5  # only what touches the seam may differ
    nothing = Edge().meter()
    nothing.update(probability, np.full(label.shape, 255, np.uint8))
    assert np.isnan(nothing.scores()["odsf"]) and np.isnan(nothing.constant())


def test_a_constant_is_what_a_flat_map_scores():
    rng = np.random.default_rng(3)
    meter, ones, best = Edge().meter(), Edge().meter(), Edge(thresholds=3).meter()
    for size in ((60, 80), (90, 70)):
        probability, label = drawing(rng, size)
        meter.update(probability, label)
        ones.update(np.ones(size, np.float32), label)
        best.update(np.full(size, 0.9, np.float32), label)
    assert 0 < meter.constant() < 10 and ones.constant() == best.constant() == meter.constant()
    # Thresholds cut a map that fades at the border at slightly different places.
    assert ones.scores()["odsf"] == pytest.approx(meter.constant(), abs=2)
    middle, label = Edge().meter(), np.zeros((60, 80), np.uint8)
    label[30, 30:50] = 1
    label[:, 60:] = 255
    middle.update(np.zeros(label.shape, np.float32), label)
    assert middle.constant() > 60


def any_covered(label, size):
    done = np.full(size, 255, np.uint8)
    for i in range(label.shape[0]):
        for j in range(label.shape[1]):
            at = int((i + 0.5) * size[0] / label.shape[0]), int((j + 0.5) * size[1] / label.shape[1])
            value = label[i, j]
            if value != 255:
                done[at] = value if done[at] == 255 else max(done[at], value)
    return done


@pytest.mark.parametrize("size", [(10, 16), (7, 9), (3, 32), (20, 31), (1, 1)])
def test_shrinking_keeps_thin_edges(size):
    label = np.random.default_rng(3).choice([0, 1, 255], (20, 32), p=[0.7, 0.1, 0.2]).astype(np.uint8)
    label[4:8, 4:8] = 255
    assert (Edge().resize(label, size) == any_covered(label, size)).all()


def test_enlarging_repeats_pixels():
    label = np.array([[0, 1], [255, 0]], np.uint8)
    assert (Edge().resize(label, (4, 6)) == label.repeat(2, 0).repeat(3, 1)).all()


def test_paint_shows_white_lines():
    picture = Edge().paint(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert picture[0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    assert Edge().paint(np.array([[0, 1, 255]], np.uint8))[0].tolist() == [[0, 0, 0], [255, 255, 255], [128, 128, 128]]
