"""Pixel and label move together, and what is unknown stays unknown."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemtl import tasks
from edgemtl.data import augment as a
from edgemtl.recipe import Augment

TASKS = {name: tasks.build(name) for name in ("depth", "normals", "edge", "human_parts", "sal")}
TASKS["semseg"] = tasks.build("semseg", {"classes": [str(n) for n in range(12)]})
COLOURS = np.random.default_rng(153).integers(0, 256, (12, 3), np.uint8)  # no blend of two is near a third
STILL = Augment(scale=(1.0, 1.0), flip=0.0, colour=0.0)


def sample(seed: int = 0, h: int = 24, w: int = 32) -> a.Sample:
    """Labels that say where they came from: the class, the colour and the depth are functions of one another."""
    rng = np.random.default_rng(seed)
    ids = np.kron(rng.integers(0, 12, (h // 4, w // 4)), np.ones((4, 4), int)).astype(np.uint8)
    normals = rng.normal(size=(h, w, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[:3] = 0
    edge = rng.integers(0, 2, (h, w)).astype(np.uint8)
    return {
        "image": COLOURS[ids],
        "semseg": np.where(ids == 11, 255, ids).astype(np.uint8),
        "human_parts": (ids % 7).astype(np.uint8),
        "depth": (ids / 2).astype(np.float32),
        "normals": normals,
        "edge": edge,
        "sal": (ids > 5).astype(np.uint8),
    }


def test_flipping_twice_is_the_identity():
    once = a.flip(sample(), TASKS)
    assert not np.array_equal(once["image"], sample()["image"])
    for name, value in a.flip(once, TASKS).items():
        np.testing.assert_array_equal(value, sample()[name])


def test_a_flip_turns_the_normals_x_and_nothing_else():
    flipped = a.flip(sample(), TASKS)["normals"]
    np.testing.assert_array_equal(flipped, sample()["normals"][:, ::-1] * np.array([-1, 1, 1], np.float32))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.6, 2.0), st.sampled_from([(24, 32), (16, 16), (40, 48)]))
def test_augmented_labels_agree_with_the_image(seed, scale, size):
    options = Augment(scale=(scale, scale), flip=0.5, colour=0.0)
    out = a.augment(sample(seed), size, options, TASKS, np.random.default_rng(seed))
    for name, value in out.items():
        assert value.shape[:2] == size, name
    # Where a pixel has a class' very colour it is not blended, so image and labels must have moved alike.
    apart = np.abs(out["image"][..., None, :].astype(int) - COLOURS.astype(int)).max(-1)
    ids = apart.argmin(-1)
    inside = (apart.min(-1) == 0) & (out["semseg"] != 255) & (out["depth"] > 0)
    assert inside.any() or not (out["semseg"] != 255).any()
    np.testing.assert_array_equal(out["semseg"][inside], ids[inside])
    np.testing.assert_allclose(out["depth"][inside], ids[inside] / 2 / scale, rtol=1e-5)
    length = np.linalg.norm(out["normals"], axis=-1)
    assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))


def test_padding_is_ignored_by_every_task():
    out = a.fit(sample(), (48, 32), TASKS)
    assert out["image"].shape == (48, 32, 3)
    for name, task in TASKS.items():
        assert not task.valid(out[name])[:12].any(), name
        assert task.valid(out[name])[12:36].any(), name


def test_a_crop_avoids_a_single_class_while_it_can():
    labels = np.zeros((32, 64), np.uint8)
    labels[:, 32:] = 1
    frame = {"image": np.zeros((32, 64, 3), np.uint8), "semseg": labels}
    for seed in range(20):
        out = a.crop(frame, (32, 32), 0.9, np.random.default_rng(seed))["semseg"]
        assert 0.1 <= (out == 0).mean() <= 0.9


def test_colour_leaves_labels_and_shape_alone_and_depends_on_the_generator_alone():
    loud = Augment(scale=(1.0, 1.0), flip=0.0, colour=1.0)
    first, second = (a.augment(sample(), (24, 32), loud, TASKS, np.random.default_rng(3)) for _ in range(2))
    still = a.augment(sample(), (24, 32), STILL, TASKS, np.random.default_rng(3))
    assert not np.array_equal(first["image"], still["image"])
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        if name != "image":
            np.testing.assert_array_equal(first[name], still[name])


@pytest.mark.parametrize("hue", [-18.0, 0.0, 18.0])
def test_grey_stays_grey_whatever_the_hue(hue):
    class Fixed:
        def random(self):
            return next(self.draws)

        def uniform(self, low, high):
            return hue

    rng = Fixed()
    rng.draws = iter([1.0, 1.0, 1.0, 0.0])  # only the hue is drawn
    grey = np.full((4, 4, 3), 90, np.uint8)
    np.testing.assert_array_equal(a.distort(grey, 0.5, rng), grey)
