import contextlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.ground.errors import UsageError
from edgemtl.networks.prepare import Normalise
from edgemtl.records.recipe import Augment, Data, Network, Recipe, Training
from edgemtl.tasks import build
from edgemtl.training.batches import Stream, labels, loader, normalise


def stream(length=10, start=0, rank=0, processes=1, **options):
    training = {"batch": 4, "accumulate": 1, "iterations": 6, "seed": 0} | options
    return Stream(length, SimpleNamespace(training=SimpleNamespace(**training)), start, rank, processes)


def test_every_epoch_is_a_permutation():
    drawn = [pair for batch in stream(length=8, iterations=6) for pair in batch]
    assert [number for number, _ in drawn] == list(range(24))
    epochs = [[index for _, index in drawn[k : k + 8]] for k in (0, 8, 16)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]


def test_a_data_set_smaller_than_a_batch_will_do():
    assert [sorted(index for _, index in batch) for batch in stream(length=2)][0] == [0, 0, 1, 1]


@given(st.integers(1, 30), st.integers(0, 6))
def test_starting_later_draws_the_same(length, start):
    assert list(stream(length, start)) == list(stream(length))[start:]
    assert len(stream(length, start)) == 6 - start


@given(st.integers(1, 30), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
def test_processes_share_each_micro_batch(length, processes, accumulate):
    options = {"batch": 8, "accumulate": accumulate}
    parts = [list(stream(length, rank=rank, processes=processes, **options)) for rank in range(processes)]
    together = [[pair for part in parts for pair in part[k]] for k in range(len(parts[0]))]
    assert together == list(stream(length, **options))
    assert len(together) == len(stream(length, rank=0, processes=processes, **options)) == 6 * accumulate


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UsageError, match="training.batch=4 must be a multiple of .* 2 x 4"):
        stream(accumulate=2, processes=4)


def test_images_and_labels_have_the_losses_layout():
    h, w = 4, 6
    batch = {
        "image": torch.full((2, h, w, 3), 124, dtype=torch.uint8),
        "semseg": torch.full((2, h, w), 255, dtype=torch.uint8),
        "sal": torch.ones(2, h, w, dtype=torch.uint8),
        "depth": torch.rand(2, h, w),
        "normals": torch.rand(2, h, w, 3),
    }
    image, goals = normalise(batch["image"]), labels(batch, dict.fromkeys(("semseg", "sal", "depth", "normals")))
    assert image.shape == (2, 3, h, w) and image.is_contiguous(memory_format=torch.channels_last)
    assert {name: (tuple(label.shape), label.dtype) for name, label in goals.items()} == {
        "semseg": ((2, h, w), torch.int64),
        "sal": ((2, 1, h, w), torch.float32),
        "depth": ((2, 1, h, w), torch.float32),
        "normals": ((2, 3, h, w), torch.float32),
    }
    assert torch.equal(goals["normals"][:, 1], batch["normals"][..., 1])


def test_normalise_is_torchvisions():
    frame = np.random.default_rng(0).integers(0, 256, (1, 5, 7, 3), np.uint8)
    expected = (frame / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalise(torch.from_numpy(frame)).permute(0, 2, 3, 1), expected, atol=1e-5)


def test_training_normalises_as_the_deployed_network_does():
    frame = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)  # every value a camera gives
    assert torch.equal(normalise(frame), Normalise()(frame.permute(0, 3, 1, 2).float()))


def test_a_task_that_a_sample_lacks_is_ignored_everywhere():
    class Samples:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            label = {"semseg": np.ones((16, 16), np.uint8)} if index else {"normals": np.ones((16, 16, 3), np.float32)}
            return {"image": np.zeros((16, 16, 3), np.uint8), **label}

        def name(self, index):
            return str(index)

    weights = dict.fromkeys(("semseg", "normals", "sal"), 1.0)
    given = Recipe(
        name="r", summary="", data=Data(name="d"), size=(16, 16), network=Network(method="m", backbone="b"),
        tasks={name: build(name, {"classes": ["a", "b"]} if name == "semseg" else None) for name in weights},
        training=Training(
            iterations=1, batch=2, rate=1, validate_every=1, save_every=1, weights=weights, workers=0, label_stride=2,
        ),
    )  # fmt: skip
    [batch] = loader(Samples(), given, 0)
    first = [index for _, index in next(iter(stream(length=2, batch=2)))].index(1)  # the sample with classes
    assert {name: label.shape[1:] for name, label in batch.items() if name != "image"} == {
        "semseg": (8, 8), "normals": (8, 8, 3), "sal": (8, 8),
    }  # fmt: skip
    assert (batch["semseg"][first] == 1).all() and (batch["semseg"][1 - first] == 255).all()
    assert (batch["normals"][first] == 0).all() and (batch["normals"][1 - first] != 0).any()
    assert (batch["sal"] == 255).all()


@pytest.mark.parametrize("cache", [True, False])
def test_held_frames_are_read_once_and_give_the_same_batches(cache):
    reads = []

    class Samples:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            reads.append(index)
            if index == 2:
                raise UsageError("2.png cannot be read")
            return {"image": np.full((8, 8, 3), index, np.uint8), "depth": np.ones((8, 8), np.float32)}

        def name(self, index):
            return str(index)

    given = Recipe(
        name="r", summary="", data=Data(name="d"), size=(8, 8), network=Network(method="m", backbone="b"),
        tasks={"depth": build("depth", None)}, augment=Augment(colour=0),
        training=Training(
            iterations=9, batch=1, rate=1, validate_every=1, save_every=1, weights={"depth": 1.0}, workers=0,
            cache=cache,
        ),
    )  # fmt: skip
    order = [index for [(_, index)] in stream(length=3, batch=1, iterations=9)]
    drawn = loader(Samples(), given, 0)
    for index in order[: order.index(2)]:
        assert (next(drawn)["image"] == index).all()
    with pytest.raises(UsageError, match=r"2\.png"):
        next(drawn)
    assert sorted(reads) == ([0, 1, 2] if cache else sorted(order[: order.index(2) + 1]))


class Grey:
    """Eight frames, of which the last cannot be read where one is `broken`."""

    def __init__(self, broken=False):
        self.broken = broken

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if self.broken and index == 7:
            raise UsageError("7.jpg cannot be read")
        return {"image": np.full((16, 16, 3), cv2.getNumThreads(), np.uint8), "sal": np.ones((16, 16), np.uint8)}

    def name(self, index):
        return str(index)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("end", ["used up", "closed", "broken", "never begun"])
def test_opencvs_threads_are_as_before_afterwards(workers, end):
    given = Recipe(
        name="r", summary="", data=Data(name="d"), size=(16, 16), network=Network(method="m", backbone="b"),
        tasks={"sal": build("sal")}, augment=Augment(colour=0.0),
        training=Training(
            iterations=4, batch=2, rate=1, validate_every=1, save_every=1, weights={"sal": 1.0}, workers=workers,
        ),
    )  # fmt: skip
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        with contextlib.closing(loader(Grey(end == "broken"), given, 0)) as batches:
            if end != "never begun":
                assert (next(batches)["image"] == 1).all()  # thread while a frame is read
            if end == "used up":
                assert len(list(batches)) == 3
            if end == "broken":
                with pytest.raises(UsageError, match="cannot be read"):
                    list(batches)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)
