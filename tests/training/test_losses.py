"""Every loss against plain NumPy that goes over the pixels one by one."""

import math

import numpy as np
import pytest
import torch

from edgemtl import tasks
from edgemtl.records.recipe import Losses
from edgemtl.training.losses import count_pixels, losses

B, H, W = 2, 6, 5
PARAMS = {"semseg": {"classes": list("abcd")}, "edge": {"positive": 0.8}}
CHANNELS = {"semseg": 4, "human_parts": 7, "sal": 2, "edge": 1, "depth": 1, "normals": 3}


def labels(name, seed=0, batch=B, ignored=0.3):
    """(B, H, W) class ids or (B, C, H, W) floats with this share of ignored pixels."""
    rng = np.random.default_rng(seed)
    out = rng.random((batch, 1, H, W)) < ignored
    if name in ("semseg", "human_parts"):
        return np.where(out[:, 0], 255, rng.integers(0, CHANNELS[name], (batch, H, W)))
    if name in ("sal", "edge"):
        return np.where(out, 255, rng.random(out.shape) < 0.2).astype(np.float32)
    if name == "depth":
        return np.where(out, 0, rng.uniform(1, 9, out.shape)).astype(np.float32)
    vectors = rng.normal(size=(batch, 3, H, W))
    return np.where(out, 0, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def raw(name, seed=1, batch=B, channels=None):
    return np.random.default_rng(seed).normal(size=(batch, channels or CHANNELS[name], H, W)).astype(np.float32)


def tensor(label):
    return torch.from_numpy(label).long() if label.ndim == 3 else torch.from_numpy(label)


def one(name, given, label, counts=None, **options):
    task = {name: tasks.build(name, PARAMS.get(name))}
    maps = [torch.as_tensor(x) for x in given] if isinstance(given, list) else torch.as_tensor(given)
    return losses({name: maps}, {name: tensor(label)}, task, Losses(**options), counts)[name]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def brute(name, x, label, class_weights=None, depth_square=0.0, normals_mean="pixels", bce_mean="labelled"):
    """The loss by its definition in float64."""
    x, label = x.astype(np.float64), label.astype(np.float64)
    pixels = [(b, i, j) for b in range(len(x)) for i in range(H) for j in range(W)]
    every = len(pixels)
    total, terms, weights = 0.0, 0, (class_weights or {}).get(name, np.ones(x.shape[1]))
    if name in ("semseg", "human_parts"):
        for b, i, j in pixels:
            if label[b, i, j] != 255:
                k, z = int(label[b, i, j]), x[b, :, i, j]
                total -= weights[k] * (z[k] - math.log(sum(math.exp(v) for v in z)))
                terms += 1
    elif name in ("sal", "edge"):
        pixels = [(b, i, j) for b, i, j in pixels if label[b, 0, i, j] != 255]
        terms = len(pixels)
        w = sum(label[b, 0, i, j] == 0 for b, i, j in pixels) / max(terms, 1) if name == "sal" else 0.8
        for b, i, j in pixels:
            z = x[b, 0, i, j] if x.shape[1] == 1 else x[b, 1, i, j] - x[b, 0, i, j]
            total -= w * math.log(sigmoid(z)) if label[b, 0, i, j] == 1 else (1 - w) * math.log(1 - sigmoid(z))
        terms = every if bce_mean == "all" else terms
    elif name == "depth":
        for b, i, j in pixels:
            if label[b, 0, i, j] > 0:
                error = abs(x[b, 0, i, j] - label[b, 0, i, j])
                total += error + 0.5 * depth_square * error**2
                terms += 1
    else:
        for b, i, j in pixels:
            if label[b, :, i, j].any():
                total += np.abs(x[b, :, i, j] / np.linalg.norm(x[b, :, i, j]) - label[b, :, i, j]).sum()
                terms += 1 if normals_mean == "pixels" else 3
    return total / max(terms, 1)


CASES = [
    ("semseg", {}),
    ("semseg", {"class_weights": {"semseg": (0.5, 1.0, 2.0, 3.0)}}),
    ("semseg", {"class_weights": {"human_parts": (0.5,) * 7}}),
    ("human_parts", {}),
    ("human_parts", {"class_weights": {"human_parts": (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0), "semseg": (0.0,) * 4}}),
    ("sal", {}),
    ("sal", {"bce_mean": "all"}),
    ("edge", {}),
    ("edge", {"bce_mean": "all"}),
    ("depth", {}),
    ("depth", {"depth_square": 0.5}),
    ("normals", {}),
    ("normals", {"normals_mean": "elements"}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_loss_is_its_formula(name, options):
    x, label = raw(name), labels(name)
    expected = brute(name, x, label, **options)
    assert expected > 0.01
    assert one(name, x, label, **options).item() == pytest.approx(expected, rel=1e-5)


def test_saliency_of_one_channel():
    x, label = raw("sal", channels=1), labels("sal")
    assert one("sal", x, label).item() == pytest.approx(brute("sal", x, label), rel=1e-5)


@pytest.mark.parametrize("name", CHANNELS)
def test_what_is_ignored_has_no_say(name):
    """Neither the value nor the gradient sees raw outputs where there is no label."""
    label = labels(name)
    x = torch.from_numpy(raw(name)).requires_grad_()
    loss = one(name, x, label)
    loss.backward()
    known = torch.from_numpy(np.broadcast_to(tasks_valid(name, label), x.shape).copy())
    assert (x.grad[~known] == 0).all() and (x.grad[known] != 0).any()
    assert one(name, torch.where(known, x.detach(), 99.0), label).item() == loss.item()


def tasks_valid(name, label):
    if name == "depth":
        return label > 0
    return label.any(1, keepdims=True) if name == "normals" else (label if label.ndim == 4 else label[:, None]) != 255


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("bce_mean", ["labelled", "all"])
def test_a_batch_without_labels_costs_nothing_and_has_a_zero_gradient(name, bce_mean):
    x = torch.from_numpy(raw(name)).requires_grad_()
    loss = one(name, x, labels(name, ignored=2.0), bce_mean=bce_mean)
    loss.backward()
    assert loss.item() == 0 and (x.grad == 0).all()


@pytest.mark.parametrize("name", CHANNELS)
def test_a_sample_without_labels_does_not_dilute_the_others(name):
    x, label = raw(name, batch=3), labels(name, batch=3)
    label[1] = labels(name, batch=3, ignored=2.0)[1]
    assert one(name, x, label).item() == pytest.approx(one(name, x[[0, 2]], label[[0, 2]]).item(), rel=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_losses_of_parts_add_up_to_the_batchs(name, options):
    x, label = raw(name, batch=4), labels(name, batch=4, ignored=0.2)
    label[3:] = labels(name, batch=1, ignored=2.0)
    task = {name: tasks.build(name, PARAMS.get(name))}
    parts = [slice(0, 1), slice(1, 3), slice(3, 4)]
    counts = sum(count_pixels({name: tensor(label[part])}, task) for part in parts)
    assert torch.equal(counts, count_pixels({name: tensor(label)}, task))
    summed = sum(one(name, x[part], label[part], counts, **options).item() for part in parts)
    assert summed == pytest.approx(one(name, x, label, **options).item(), rel=1e-5)


@pytest.mark.parametrize("name", CHANNELS)
def test_maps_of_deep_supervision_each_cost_what_a_map_costs(name):
    coarse = np.random.default_rng(2).normal(size=(B, CHANNELS[name], 3, 3)).astype(np.float32)
    fine, label = raw(name), labels(name)
    both = one(name, [fine, coarse], label).item()
    assert both == pytest.approx(one(name, fine, label).item() + one(name, coarse, label).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_losses_of_half_precision_outputs_are_computed_in_float32(name, options, dtype):
    half, label = torch.from_numpy(raw(name)).to(dtype), labels(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss = one(name, half, label, **options)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(brute(name, half.float().numpy(), label, **options), rel=1e-5)


ODD = {  # labels at the border of what counts, one a pixel
    "semseg": [0, 3, 255],
    "human_parts": [0, 6, 255],
    "sal": [0, 1, 255],
    "edge": [0, 1, 255],
    "depth": [0, -1, 1e-6, 80, math.inf, math.nan],
    "normals": [(0, 0, n) for n in (0, 0.3, 0.499, 0.501, 1, math.nan, math.inf)] + [(0.4, 0.4, 0)],
}


@pytest.mark.parametrize("name", CHANNELS)
def test_the_pixels_that_count_are_those_of_the_meter(name):
    task = tasks.build(name, PARAMS.get(name))
    image = np.array([ODD[name]], np.float32 if name in ("depth", "normals") else np.uint8)  # one row of pixels
    label, valid = torch.from_numpy(image)[None], task.valid(image)
    label = (
        label.long()
        if name in ("semseg", "human_parts")
        else label.permute(0, 3, 1, 2)
        if label.ndim == 4
        else label[:, None]
    )
    assert valid.any() and not valid.all()
    assert count_pixels({name: label}, {name: task})[0, 1] == valid.sum()
    x = torch.randn(1, CHANNELS[name], *image.shape[:2], requires_grad=True)
    losses({name: x}, {name: label}, {name: task}, Losses())[name].backward()
    assert np.array_equal((x.grad != 0).any(1)[0].numpy(), valid) and x.grad.isfinite().all()


def test_large_logits_do_not_overflow():
    x = torch.full((1, 1, H, W), 6e4, dtype=torch.float16)
    label = np.zeros((1, 1, H, W), np.float32)
    assert one("edge", x, label).item() == pytest.approx(0.2 * float(x[0, 0, 0, 0]), rel=1e-5)


def test_raw_outputs_are_brought_to_the_labels_size():
    label = np.full((1, 1, 8, 8), 2.0, np.float32)
    assert one("depth", np.full((1, 1, 4, 4), 3.0, np.float32), label).item() == pytest.approx(1.0)
