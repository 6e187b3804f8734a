"""Pixel and label move together, and what is unknown stays unknown."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemtl import tasks
from edgemtl.records.recipe import Augment
from edgemtl.training import augment as a

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
    out = a.pad_sample(sample(), (48, 32), TASKS)
    assert out["image"].shape == (48, 32, 3)
    for name, task in TASKS.items():
        assert not task.valid(out[name])[:12].any(), name
        assert task.valid(out[name])[12:36].any(), name


def test_native_frames_are_padded_or_cut_and_never_stretched():
    native = STILL.model_copy(update={"native": True})
    out = a.augment(sample(), (48, 20), native, TASKS, np.random.default_rng(0))
    rows = a.window((24, 20), (48, 20))[0]
    left = next(k for k in range(13) if np.array_equal(out["image"][rows], sample()["image"][:, k : k + 20]))
    for name, task in TASKS.items():
        np.testing.assert_array_equal(out[name][rows], sample()[name][:, left : left + 20])
        assert not task.valid(out[name])[:12].any() and not task.valid(out[name])[36:].any(), name


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 2.0))
def test_native_frames_scale_from_their_own_size(seed, scale):
    options = Augment(scale=(scale, scale), flip=0.0, colour=0.0, native=True)
    out = a.augment(sample(seed), (64, 64), options, TASKS, np.random.default_rng(seed))
    size = (round(24 * scale), round(32 * scale))
    inside = np.zeros((64, 64), bool)
    inside[a.window(size, (64, 64))] = True
    np.testing.assert_array_equal(TASKS["human_parts"].valid(out["human_parts"]), inside)
    assert out["depth"].max() == pytest.approx(sample(seed)["depth"].max() / scale)


@given(st.tuples(st.integers(1, 99), st.integers(1, 99)), st.tuples(st.integers(1, 99), st.integers(1, 99)))
def test_the_window_lies_in_the_middle_of_the_canvas(frame, size):
    for length, whole, part in zip(frame, size, a.window(frame, size)):
        assert part.stop - part.start == length
        assert part.start == 0 if length >= whole else 0 <= whole - part.stop - part.start <= 1


def test_padding_keeps_the_mean_colour_under_distortion():
    loud = Augment(scale=(1.0, 1.0), flip=0.5, colour=1.0)
    for seed in range(5):
        image = a.augment(sample(), (48, 32), loud, TASKS, np.random.default_rng(seed))["image"]
        assert np.all(image[:12] == a.FILL) and np.all(image[36:] == a.FILL)


def test_a_view_of_the_background_alone_is_hidden_from_the_tasks_named():
    frame = sample() | {"human_parts": np.zeros((24, 32), np.uint8), "sal": np.zeros((24, 32), np.uint8)}
    hide = STILL.model_copy(update={"hide_empty": ("human_parts",)})
    out = a.augment(frame, (48, 32), hide, TASKS, np.random.default_rng(0))
    assert (out["human_parts"] == 255).all()
    assert (out["sal"][12:36] == 0).all()
    frame["human_parts"][20, 3] = 4
    out = a.augment(frame, (48, 32), hide, TASKS, np.random.default_rng(0))
    assert set(np.unique(out["human_parts"])) == {0, 4, 255}
    assert out["human_parts"][32, 3] == 4


def test_a_crop_avoids_a_single_class_while_it_can():
    labels = np.zeros((32, 64), np.uint8)
    labels[:, 32:] = 1
    frame = {"image": np.zeros((32, 64, 3), np.uint8), "semseg": labels}
    for seed in range(20):
        out = a.crop(frame, (32, 32), 0.9, TASKS, np.random.default_rng(seed))["semseg"]
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


class HueAlone:
    """Draws nothing but a hue, always the same."""

    def __init__(self, hue):
        self.hue, self.draws = hue, iter([1.0, 1.0, 1.0, 0.0])

    def random(self):
        return next(self.draws)

    def uniform(self, low, high):
        assert low <= self.hue <= high
        return self.hue


@pytest.mark.parametrize("hue", [-18.0, 0.0, 18.0])
def test_grey_stays_grey_whatever_the_hue(hue):
    grey = np.full((4, 4, 3), 90, np.uint8)
    np.testing.assert_array_equal(a.distort(grey, 0.5, HueAlone(hue)), grey)


def test_the_largest_hue_turns_red_by_36_degrees():
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    np.testing.assert_array_equal(a.distort(red, 0.5, HueAlone(18.0))[0, 0], [255, 153, 0])  # 255 * 36 / 60


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_moves_every_pixel_and_turns_the_normals_along(quarters):
    square = sample(h=32, w=32)
    turned = a.turn(square, 90 * quarters, TASKS)
    for name, value in turned.items():
        if name != "normals":
            np.testing.assert_array_equal(value, np.rot90(square[name], quarters), err_msg=name)
    x, y, z = np.moveaxis(np.rot90(square["normals"], quarters), -1, 0)
    wanted = [(-y, x, z), (-x, -y, z), (y, -x, z)][quarters - 1]
    np.testing.assert_allclose(turned["normals"], np.stack(wanted, -1), atol=1e-6)


def test_the_corners_of_a_turned_frame_are_unlabelled():
    turned = a.turn(sample(), 20, TASKS)
    for name, task in TASKS.items():
        assert not task.valid(turned[name])[0, 0] and task.valid(turned[name])[12, 16], name
        assert turned[name].dtype == sample()[name].dtype
    assert tuple(turned["image"][0, 0]) == a.FILL


def test_scales_are_drawn_from_and_turning_is_part_of_a_view():
    options = STILL.model_copy(update={"scales": (2.0, 4.0), "class_ratio": 1.0})
    flat = sample() | {"depth": np.full((24, 32), 8, np.float32)}
    views = [a.augment(flat, (24, 32), options, TASKS, np.random.default_rng(seed)) for seed in range(8)]
    assert {float(view["depth"].max()) for view in views} == {4.0, 2.0}
    view = a.augment(flat, (24, 32), STILL.model_copy(update={"turn": 45.0}), TASKS, np.random.default_rng(0))
    assert not (view["depth"] > 0).all() and (view["depth"] > 0).any()
