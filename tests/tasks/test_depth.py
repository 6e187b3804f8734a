import math

import numpy as np
import pytest

from edgemtl.tasks.depth import Depth


def test_rmse_equals_plain_loops():
    rng = np.random.default_rng(0)
    meter, squares = Depth().meter(), []
    for height in (5, 9):  # of different sizes, so that a mean of images would be wrong
        label = rng.uniform(0.5, 9, (height, 7)).astype(np.float32)
        label[rng.random(label.shape) < 0.3] = 0
        label[0, :2] = np.nan, np.inf
        prediction = rng.uniform(-1, 9, label.shape).astype(np.float32)
        meter.update(prediction, label)
        for p, y in zip(prediction.ravel().tolist(), label.ravel().tolist()):
            if y > 0 and math.isfinite(y):
                squares.append((max(p, 0) - y) ** 2)
    assert meter.scores()["rmse"] == pytest.approx(math.sqrt(sum(squares) / len(squares)), rel=1e-6)


def test_nothing_measured_has_no_score():
    meter = Depth().meter()
    meter.update(np.ones((2, 2), np.float32), Depth().unlabelled((2, 2)))
    assert math.isnan(meter.scores()["rmse"]) and math.isnan(meter.constant())


def test_the_best_constant_is_the_mean_of_all_known_pixels():
    meter, mean = Depth().meter(), Depth().meter()
    for label in ([[1.0, 2.0, 0.0]], [[6.0, math.inf]]):
        label = np.array(label, np.float32)
        meter.update(np.full_like(label, 99), label)
        mean.update(np.full_like(label, 3), label)
    assert meter.constant() == pytest.approx(math.sqrt((4 + 1 + 9) / 3))
    assert mean.scores()["rmse"] == pytest.approx(meter.constant())


def test_enlarging_the_image_brings_everything_nearer_and_unknown_stays():
    label = np.array([[3.0, 0.0]], np.float32)
    zoomed = Depth().zoom(label, 1.5)
    assert zoomed.tolist() == [[2.0, 0.0]] and zoomed.dtype == np.float32


def test_decode_is_bilinear_about_pixel_centres():
    decoded = Depth().decode(np.array([[1.0, 3.0]], np.float16), (1, 4))
    assert decoded.dtype == np.float32
    assert decoded[0].tolist() == [1.0, 1.5, 2.5, 3.0]


def test_paint_follows_the_scale_in_the_legend():
    task = Depth(far_m=4)
    metres = np.array([[1e-3, 1, 2, 3, 4, 0]], np.float32)
    legend = task.legend(metres)
    assert [text for text, _ in legend] == ["0 m", "1 m", "2 m", "3 m", "4 m", "unknown"]
    assert (np.abs(task.paint(metres)[0].astype(int) - [rgb for _, rgb in legend]) <= 2).all()
    assert (task.paint(metres + 99) == task.paint(np.full_like(metres, 4))).all()
    steps = task.paint(np.linspace(0.01, 4, 50, dtype=np.float32)[None])[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(steps) < 1).all()  # from bright to dark all the way, as a perceptual map does
