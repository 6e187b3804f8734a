import math

import cv2
import numpy as np
import pytest

from edgemtl.tasks.normals import Normals


def directions(rng, *shape):
    vectors = rng.normal(size=(*shape, 3))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_angles_equal_plain_loops():
    rng = np.random.default_rng(0)
    meter, angles = Normals().meter(), []
    for height in (12, 31):
        label = directions(rng, height, 20)
        label[rng.random(label.shape[:2]) < 0.2] = 0
        spread = rng.choice([0.0, 0.1, 1.0], (height, 20, 1))
        prediction = ((label + spread * directions(rng, height, 20)) * 3).astype(np.float32)
        meter.update(prediction, label)
        for p, y in zip(prediction.reshape(-1, 3).tolist(), label.reshape(-1, 3).tolist()):
            if any(y):
                p, y = ([v / max(math.hypot(*u), 1e-12) for v in u] for u in (p, y))
                angles.append(math.degrees(2 * math.atan2(math.dist(p, y), math.hypot(*(a + b for a, b in zip(p, y))))))
    scores = meter.scores()
    assert scores["mean"] == pytest.approx(sum(angles) / len(angles), rel=1e-5)
    assert scores["median"] == pytest.approx(np.median(angles), abs=0.2)
    assert scores["within_11.25"] == pytest.approx(100 * sum(a < 11.25 for a in angles) / len(angles), abs=0.2)


@pytest.mark.parametrize(
    "prediction, degrees", [((0, 0, 2), 0), ((0, 0, -1), 180), ((1, 0, 1), 45), ((3, 0, 0), 90), ((0, 0, 0), 90)]
)
def test_known_angles(prediction, degrees):
    meter = Normals().meter()
    meter.update(np.array([[prediction]], np.float32), np.array([[[0, 0, 1]]], np.float32))
    assert meter.scores()["mean"] == pytest.approx(degrees, abs=1e-4)
    assert meter.scores()["median"] == pytest.approx(degrees, abs=0.01)


def test_the_best_constant_is_a_direction_between_or_among_the_labels():
    def constant(*label):
        meter = Normals().meter()
        for row in label:  # over several frames, with unknown pixels and predictions that have no say
            meter.update(np.full((1, 2, 3), 0.5, np.float32), np.array([[row, (0, 0, 0)]], np.float32))
        return meter.constant()

    assert constant((0, 0, 1), (0, 0, 1)) == pytest.approx(0, abs=1e-4)
    assert constant((0, 0, 1), (0, 1, 0)) == pytest.approx(45, abs=1e-3)
    # Of three at right angles, twice one: that one is 45 degrees off on average, the mean direction is not as good.
    assert constant((1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)) == pytest.approx(45, abs=1e-3)
    assert math.isnan(constant((0, 0, 0)))


@pytest.mark.slow
def test_no_constant_direction_beats_the_best_one():
    rng = np.random.default_rng(1)
    label = directions(rng, 40, 50) * 0.6 + directions(rng, 1, 1)
    label /= np.linalg.norm(label, axis=-1, keepdims=True)

    def mean(direction):
        meter = Normals().meter()
        meter.update(np.broadcast_to(direction, label.shape), label)
        return meter.scores()["mean"], meter.constant()

    ways = [label.mean((0, 1)), *directions(rng, 500)]
    found = [mean(way) for way in ways]
    assert len({best for _, best in found}) == 1 and found[0][1] <= min(angle for angle, _ in found) + 0.1
    assert found[0][1] >= found[0][0] - 0.5  # these are spread evenly about their mean


def test_flipping_mirrors_x():
    label = np.array([[[1, 0, 0], [0, 0.6, 0.8]]], np.float32)
    assert Normals().flip(label).tolist() == [[[0, pytest.approx(0.6), pytest.approx(0.8)], [-1, 0, 0]]]


def test_decode_puts_channels_last_and_survives_zero():
    decoded = Normals().decode(np.zeros((3, 2, 2), np.float32), (4, 6))
    assert decoded.shape == (4, 6, 3) and not decoded.any()
    decoded = Normals().decode(np.array([0, 0.5, 0], np.float16).reshape(3, 1, 1), (2, 2))
    assert (decoded == [0, 1, 0]).all() and decoded.dtype == np.float32


def test_legend_states_the_painted_colours():
    ways = {"right": (1, 0, 0), "left": (-1, 0, 0), "up": (0, 1, 0), "down": (0, -1, 0), "to the camera": (0, 0, 1)}
    rows = dict(Normals().legend())
    for text, way in (ways | {"unknown": (0, 0, 0)}).items():
        assert np.abs(Normals().paint(np.array([[way]], np.float32))[0, 0].astype(int) - rows[text]).max() <= 1, text
    assert "unknown" not in dict(Normals().legend(np.array([[(0, 0, 1)]], np.float32)))


@pytest.mark.parametrize("size", [(12, 20), (31, 17), (5, 6)])
def test_a_map_becomes_unit_vectors_of_any_size(size):
    map = np.moveaxis(directions(np.random.default_rng(0), 12, 20), -1, 0) * np.float32(3)
    map[:, :4, :4] = 0
    made = Normals().decode(map, size)
    assert made.shape == (*size, 3) and made.dtype == np.float32
    wide = cv2.resize(np.ascontiguousarray(np.moveaxis(map, 0, -1)), size[::-1], interpolation=cv2.INTER_LINEAR)
    length = np.linalg.norm(wide.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(made, np.divide(wide, length, where=length > 1e-9, out=np.zeros_like(wide)), atol=1e-6)
    assert not made[0, 0].any()
