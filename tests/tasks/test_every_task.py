"""What holds for every task, and properties of label geometry on random labels."""

import itertools
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemtl import registry, tasks
from edgemtl.tasks import delta_m
from edgemtl.tasks.semseg import NYUD_CLASSES

NAMES = registry.names("tasks")
TASKS = {name: tasks.build(name, {"classes": NYUD_CLASSES} if name == "semseg" else None) for name in NAMES}
every = pytest.mark.parametrize("name", NAMES)
sizes = st.tuples(st.integers(2, 24), st.integers(2, 24))
seeds = st.integers(0, 2**32 - 1)


def some_label(name, size, seed):
    """A random label with ignored pixels."""
    rng = np.random.default_rng(seed)
    task = TASKS[name]
    label = task.unlabelled(size)
    known = rng.random(size) < 0.8
    if name == "depth":
        label[known] = rng.uniform(0.5, 10, known.sum())
    elif name == "normals":
        vectors = rng.normal(size=(known.sum(), 3)) + 1e-3
        label[known] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    else:
        label[known] = rng.integers(0, {"semseg": 40, "human_parts": 7}.get(name, 2), known.sum())
    return label


def some_map(name, seed):
    rng = np.random.default_rng(seed)
    if name in ("semseg", "human_parts"):
        return rng.integers(0, 7, (6, 8)).astype(np.int32)
    return rng.random((3, 6, 8) if name == "normals" else (6, 8), np.float32)


def sources(length, to):
    """The pixels that the centres of `to` pixels fall into, rounded down and up where one falls between two."""
    centres = (np.arange(to) + 0.5) * length / to
    return np.maximum(centres - 1e-3, 0).astype(int), np.minimum(centres + 1e-3, length - 1).astype(int)


def units(vectors):
    return np.linalg.norm(vectors, axis=-1)


@every
def test_a_picture_is_json_that_paints_and_reads_every_value(name):
    picture = TASKS[name].picture()
    assert json.loads(json.dumps(picture)) and picture["kind"] in ("classes", "numbers", "vectors")
    assert 0 < picture["over"][0] < picture["over"][1] <= 1
    if picture["kind"] == "numbers":
        assert picture["first"] + picture["last"] < len(picture["table"]) == 256
        assert picture["ticks"][0][0] == 0 and picture["ticks"][-1][0] == 1
    if picture["kind"] == "classes":
        assert len(picture["names"]) == len(picture["table"]) == TASKS[name].channels


def test_the_six_tasks():
    assert NAMES == ["depth", "edge", "human_parts", "normals", "sal", "semseg"]


@every
def test_what_a_task_states(name):
    task = TASKS[name]
    assert task.name == name and task.title and task.channels >= 1
    assert registry.summary("tasks", name).endswith(".")
    again = tasks.build(name, json.loads(json.dumps(task.model_dump(mode="json"))))
    assert again == task
    meter = task.meter()
    label = some_label(name, (40, 50), 3)
    meter.update(task.decode(some_map(name, 3), (40, 50)), label)
    assert np.isfinite(meter.scores()[task.headline])
    assert task.scores.keys() == meter.scores().keys() == task.meter().scores().keys()


@every
def test_meters_of_parts_add_up_to_the_whole(name):
    task = TASKS[name]
    whole, *parts = (task.meter() for _ in range(4))  # one part has seen nothing
    for seed in range(5):
        label, prediction = some_label(name, (40, 50), seed), task.decode(some_map(name, seed), (40, 50))
        for meter in (whole, parts[seed % 2]):
            meter.update(prediction, label)
    assert parts[1].scores() != whole.scores()
    for part in parts[1:]:
        parts[0].add(part)
    assert parts[0].scores() == pytest.approx(whole.scores(), rel=1e-12)
    assert parts[0].constant() == pytest.approx(whole.constant(), rel=1e-12)


@every
def test_the_label_itself_is_the_best_prediction(name):
    task = TASKS[name]
    label = some_label(name, (40, 50), 5)
    if name == "edge":
        label[:] = 0
        label[20, 10:40] = 1  # noise would be thinned
    meter = task.meter()
    prediction = np.where(task.valid(label), label, 0).astype(np.float32) if name in ("edge", "sal") else label
    meter.update(np.where(prediction == 255, 0, prediction) if name == "human_parts" else prediction, label)
    present = {"semseg": 100, "human_parts": 100, "edge": 100, "sal": 100, "depth": 0, "normals": 0}[name]
    assert meter.scores()[task.headline] == pytest.approx(present, abs=0.01)


@every
def test_paint_is_a_picture_of_labels_and_predictions(name):
    task = TASKS[name]
    for value in (some_label(name, (9, 13), 1), task.decode(some_map(name, 1), (9, 13))):
        picture = task.paint(value)
        assert picture.shape == (9, 13, 3) and picture.dtype == np.uint8
        assert (task.paint(value) == picture).all()
        for text, rgb in task.legend(value):
            assert text and len(rgb) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in rgb)
    assert len(task.legend()) >= len(task.legend(task.decode(some_map(name, 1), (9, 13))))


@every
@given(size=sizes, seed=seeds)
@settings(max_examples=25, deadline=None)
def test_flipping_twice_is_the_identity(name, size, seed):
    task, label = TASKS[name], some_label(name, size, seed)
    flipped = task.flip(label)
    assert (task.flip(flipped) == label).all() and flipped.dtype == label.dtype
    assert (task.valid(flipped) == task.valid(label)[:, ::-1]).all()


@every
@given(size=sizes, to=sizes, seed=seeds, factor=st.floats(1, 2))
@settings(max_examples=25, deadline=None)
def test_ignored_pixels_stay_ignored(name, size, to, seed, factor):
    task, label = TASKS[name], some_label(name, size, seed)
    assert not task.valid(task.resize(task.unlabelled(size), to)).any()
    resized = task.resize(label, to)
    assert resized.shape[:2] == to and resized.dtype == label.dtype
    if name != "edge" or (to[0] >= size[0] and to[1] >= size[1]):
        allowed = [task.valid(label)[np.ix_(*at)] for at in itertools.product(*map(sources, size, to))]
        assert (np.equal(allowed, task.valid(resized))).any(axis=0).all()
    assert (task.valid(task.zoom(label, factor)) == task.valid(label)).all()


@given(size=sizes, to=sizes, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_normals_stay_unit(size, to, seed):
    task, label = TASKS["normals"], some_label("normals", size, seed)
    for made in (task.resize(label, to), task.flip(label), task.zoom(label, 1.3)):
        length = units(made)
        assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))
    map = np.moveaxis(some_label("normals", size, seed), -1, 0)
    length = units(task.decode(map, to))
    assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))


@every
@given(cell=st.integers(2, 5), grid=st.tuples(st.integers(2, 5), st.integers(2, 5)), seed=seeds)
@settings(max_examples=20, deadline=None)
def test_pixel_and_label_move_together(name, cell, grid, seed):
    """An image whose cells are one label each: resized or flipped, every pixel still shows the label beside it."""
    task, rng = TASKS[name], np.random.default_rng(seed)
    key = rng.permutation(grid[0] * grid[1]).reshape(grid)
    per_cell = some_label(name, grid, seed)
    image = key.repeat(cell, 0).repeat(cell, 1).astype(np.float32)
    label = per_cell.repeat(cell, 0).repeat(cell, 1)
    for size in (grid, (grid[0] * cell * 2, grid[1] * cell * 2)):
        seen = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if size == grid else cv2.INTER_LINEAR)
        for shown, moved in ((seen, task.resize(label, size)), (seen[:, ::-1], task.flip(task.resize(label, size)))):
            expected = task.flip(per_cell) if shown is not seen else per_cell
            position = key[:, ::-1] if shown is not seen else key
            for k in range(key.size):
                at = shown == k  # inside a cell: bilinear mixing leaves exact values only there
                inner = at & (np.kron(position == k, np.ones((size[0] // grid[0], size[1] // grid[1]))) > 0)
                assert inner.any() and (moved[inner] == expected[position == k]).all()


def test_delta_m_of_published_numbers():
    four = {name: TASKS[name] for name in ("semseg", "depth", "normals", "edge")}
    single = {"semseg": 48.92, "depth": 0.5804, "normals": 20.94, "edge": 77.20}
    demt = {"semseg": 51.50, "depth": 0.5474, "normals": 20.02, "edge": 78.1}
    assert delta_m(demt, single, four) == pytest.approx(4.13, abs=0.005)
    assert delta_m(single, single, four) == 0
    worse = {"semseg": 47.90, "depth": 0.6053, "normals": 21.17, "edge": 76.90}
    assert delta_m(worse, single, four) == pytest.approx(-1.96, abs=0.01)


def test_nothing_is_relative_to_a_score_of_zero():
    two = {name: TASKS[name] for name in ("depth", "semseg")}
    weak = {"depth": 0.8, "semseg": 0.0}
    assert delta_m({"depth": 0.8, "semseg": 1.0}, weak, two) is None
    assert delta_m({"depth": 0.4, "semseg": 0.0}, weak, two) == 25  # what is equal has not changed
    assert delta_m(weak, {"depth": 0.8, "semseg": 10.0}, two) == -50
    assert delta_m({"depth": float("nan"), "semseg": 10.0}, {"depth": 0.8, "semseg": 10.0}, two) is None


@every
def test_what_a_map_cannot_be(name):
    task, made = TASKS[name], some_map(name, 1)
    assert task.problem(made) is None
    wrong = made.copy()
    if made.dtype.kind == "i":
        for value in (task.channels, 256 + 1, -1):  # 257 would be painted as class 1
            wrong[1, 2] = value
            assert task.problem(wrong) == f"class {value}; allowed: 0 to {task.channels - 1}"
        assert task.problem(made.astype(np.float32)) == "float32, not class ids"
        return
    for value in (np.nan, np.inf, -np.inf):
        wrong[..., 1, 2] = value
        assert f"in {3 if name == 'normals' else 1} of {made.size} values" in task.problem(wrong)
