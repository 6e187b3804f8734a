"""What holds for every task, and properties of label geometry on random labels."""

import itertools
import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemtl import objectives, tasks
from edgemtl.ground import registry
from edgemtl.records.recipe import Losses
from edgemtl.tasks import delta_m
from edgemtl.tasks.semseg import NYUD_CLASSES
from edgemtl.training.losses import losses

NAMES = registry.names("tasks")
TASKS = {name: tasks.build(name, {"classes": NYUD_CLASSES} if name == "semseg" else None) for name in NAMES}
every = pytest.mark.parametrize("name", NAMES)
sizes = st.tuples(st.integers(2, 24), st.integers(2, 24))
seeds = st.integers(0, 2**32 - 1)


def some_map(name, seed, size=(6, 8)):
    """What a network of random raw outputs returns."""
    raw = torch.from_numpy(np.random.default_rng(seed).normal(0.2, 1, (1, TASKS[name].channels, *size)))
    return objectives.of(name).activate(raw.float())[0].numpy()


def some_label(name, size, seed):
    """A random label with ignored pixels."""
    task, label = TASKS[name], TASKS[name].unlabelled(size)
    known = np.random.default_rng(seed).random(size) < 0.8
    values = task.decode(some_map(name, seed, size), size)
    label[known] = (values if label.dtype.kind == "f" else np.rint(values))[known]
    return label


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
    if picture["kind"] == "numbers":
        assert picture["first"] + picture["last"] < len(picture["table"]) == 256
        assert picture["ticks"][0][0] == 0 and picture["ticks"][-1][0] == 1
    if picture["kind"] == "classes":
        assert len(picture["names"]) == len(picture["table"]) == TASKS[name].channels


@every
def test_what_a_task_states(name):
    task = TASKS[name]
    assert task.name == name and task.title and task.channels >= 1 and task.words
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
    prediction = label if task.class_names else label.astype(np.float32)
    if label.dtype.kind != "f":
        prediction = np.where(task.valid(label), prediction, 0)
    meter.update(prediction, label)
    assert meter.scores()[task.headline] == pytest.approx(100 if task.higher_is_better else 0, abs=0.01)


@every
def test_a_tally_counts_what_is_valid_and_is_told_in_words(name):
    task, labels = TASKS[name], [some_label(name, (40, 50), seed) for seed in range(2)]
    tallies = [task.tally(label) for label in labels]
    assert [tally.sum() for tally in tallies] == [task.valid(label).sum() for label in labels]
    assert task.summary(sum(tallies)) and task.everywhere(sum(tallies)) is None
    nothing = task.tally(task.unlabelled((4, 5)))
    assert not nothing.any() and task.everywhere(nothing) is None and len(nothing) == len(tallies[0])
    if task.unlabelled((1, 1)).dtype.kind != "f":
        assert task.everywhere(task.tally(np.zeros((4, 5), np.uint8)))
        assert task.everywhere(task.tally(np.full((4, 5), 200, np.uint8))) is None  # no value that the task has


@every
def test_score_and_loss_take_the_same_pixels(name):
    """The device side's rule on a label, torch's on the tensor of it: on what is known, unknown, odd and broken."""
    task, label = TASKS[name], some_label(name, (40, 50), 4)
    if label.dtype.kind == "f":
        odd = np.random.default_rng(1).choice([0, 0.3, 0.499, 0.501, 1, -1, np.nan, np.inf], (40, 50))
        label *= odd.reshape(40, 50, *[1] * (label.ndim - 2)).astype(np.float32)
    valid, objective = task.valid(label), objectives.of(name)
    tensor = objective.tensor(torch.from_numpy(label[None]))
    assert valid.any() and not valid.all()
    assert np.array_equal(objective.valid(tensor, task).reshape(40, 50).numpy(), valid)
    raw = torch.randn(1, task.channels, 40, 50, requires_grad=True)
    losses({name: raw}, {name: tensor}, {name: task}, Losses())[name].backward()
    assert raw.grad.isfinite().all() and np.array_equal((raw.grad != 0).any(1)[0].numpy(), valid)


@every
def test_a_pixel_is_told_in_words(name):
    task = TASKS[name]
    prediction = task.decode(some_map(name, 1), (6, 8))
    assert all(task.word(value) for row in prediction for value in row)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("depth", np.float32(2.306), "2.31 m"),
        ("depth", np.float32(0), "unknown depth"),
        ("normals", np.array([0, 0.9781476, 0.2079117]), "faces up (12° off)"),
        ("normals", np.array([-1.0, 0, 0]), "faces left (0° off)"),
        ("normals", np.zeros(3), "unknown direction"),
        ("edge", np.float32(0.5), "edges 50 %"),
        ("semseg", np.uint8(4), "chair"),
        ("semseg", np.uint8(255), "ignored"),
    ],
)
def test_words_of_a_pixel(name, value, told):
    assert TASKS[name].word(value) == told


@every
def test_what_explains_the_colours_beside_a_legend(name):
    task = TASKS[name]
    assert task.ruler is None or task.ruler[0] > 0
    if (ball := task.ball(24)) is not None:
        assert task.paint(ball).shape == (24, 24, 3) and 0 < task.valid(ball).mean() < 1


@every
def test_a_quick_meter_has_the_same_scores(name):
    task, label = TASKS[name], some_label(name, (40, 50), 2)
    meter = task.quick().meter()
    meter.update(task.decode(some_map(name, 2), (40, 50)), label)
    assert meter.scores().keys() == task.scores.keys()


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
        assert f"in {made.size // 48} of {made.size} values" in task.problem(wrong)
