"""Every loss against plain NumPy on the valid pixels."""

import numpy as np
import pytest
import torch

from edgemtl import tasks
from edgemtl.losses import losses
from edgemtl.recipe import Losses

RNG = np.random.default_rng(0)
B, H, W = 2, 6, 5


def one(name: str, raw: np.ndarray, label: np.ndarray, params: dict | None = None, **options) -> float:
    task = tasks.build(name, params)
    dtype = torch.long if name in ("semseg", "human_parts") else torch.float32
    found = losses({name: torch.tensor(raw)}, {name: torch.tensor(label, dtype=dtype)}, {name: task}, Losses(**options))
    return found[name].item()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("weights", [(), (0.5, 1.0, 2.0, 3.0)])
def test_semseg(weights):
    raw = RNG.normal(size=(B, 4, H, W)).astype(np.float32)
    label = RNG.integers(0, 4, (B, H, W))
    label[0, :2] = 255
    log = raw - np.log(np.exp(raw).sum(1, keepdims=True))
    b, y, x = np.nonzero(label != 255)
    ids = label[b, y, x]
    each = -log[b, ids, y, x] * np.array(weights or np.ones(4))[ids]
    assert one("semseg", raw, label, {"classes": list("abcd")}, class_weights=weights) == pytest.approx(
        each.mean(), rel=1e-5
    )


@pytest.mark.parametrize("outputs", [1, 2])
def test_saliency_is_balanced_by_the_batch(outputs):
    raw = RNG.normal(size=(B, outputs, H, W)).astype(np.float32)
    label = (RNG.random((B, 1, H, W)) < 0.2).astype(np.float32)
    label[1, :, 0] = 255
    p = sigmoid(raw[:, :1] if outputs == 1 else raw[:, 1:] - raw[:, :1])
    valid, positive = label != 255, label == 1
    w = (valid & ~positive).sum() / valid.sum()
    each = np.where(positive, -w * np.log(p), -(1 - w) * np.log(1 - p))
    assert one("sal", raw, label, {"outputs": outputs}) == pytest.approx(each[valid].mean(), rel=1e-5)


def test_edges_weigh_by_the_tasks_number():
    raw = RNG.normal(size=(B, 1, H, W)).astype(np.float32)
    label = (RNG.random((B, 1, H, W)) < 0.2).astype(np.float32)
    label[0, :, 0] = 255
    p, valid = sigmoid(raw), label != 255
    each = np.where(label == 1, -0.8 * np.log(p), -0.2 * np.log(1 - p))
    assert one("edge", raw, label, {"positive": 0.8}) == pytest.approx(each[valid].mean(), rel=1e-5)


def test_depth_counts_known_pixels_only():
    raw = RNG.normal(3, 1, size=(B, 1, H, W)).astype(np.float32)
    label = RNG.uniform(1, 9, size=(B, 1, H, W)).astype(np.float32)
    label[0, :, :3] = 0
    error = (raw - label)[label > 0]
    assert one("depth", raw, label) == pytest.approx(np.abs(error).mean(), rel=1e-5)
    both = np.abs(error).mean() + 0.25 * (error**2).mean()
    assert one("depth", raw, label, depth_square=0.5) == pytest.approx(both, rel=1e-5)


def test_normals_are_compared_as_unit_vectors_per_pixel():
    raw = RNG.normal(size=(B, 3, H, W)).astype(np.float32)
    label = RNG.normal(size=(B, 3, H, W)).astype(np.float32)
    label /= np.linalg.norm(label, axis=1, keepdims=True)
    label[1, :, 2] = 0
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    each = np.abs(unit - label).sum(1)[np.abs(label).sum(1) > 0]
    assert one("normals", raw, label) == pytest.approx(each.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "channels", "ignored"), [("depth", 1, 0), ("edge", 1, 255), ("sal", 1, 255), ("normals", 3, 0)]
)
def test_a_batch_without_labels_costs_nothing_and_has_a_gradient(name, channels, ignored):
    raw = torch.zeros(1, channels, 4, 4, requires_grad=True)
    label = torch.full((1, channels, 4, 4), float(ignored))
    loss = losses({name: raw}, {name: label}, {name: tasks.build(name)}, Losses())[name]
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(raw.grad).all()


def test_raw_outputs_are_brought_to_the_labels_size():
    label = np.full((1, 1, 8, 8), 2.0, np.float32)
    assert one("depth", np.full((1, 1, 4, 4), 3.0, np.float32), label) == pytest.approx(1.0)
