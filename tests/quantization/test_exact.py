"""The exact form: near the float one, the same for a batch as for each image, and without ties."""

import numpy as np
import pytest
import torch
from torch import nn

from edgemtl import models
from edgemtl.networks import layers
from edgemtl.networks.prepare import prepare
from edgemtl.quantization import exact
from edgemtl.quantization.exact import ExactActivate
from edgemtl.records import recipe

SIZE = (64, 96)


@pytest.fixture(scope="module")
def forms():
    """nyud_edge at a small size in float deployment form and in exact form, without quantizers; and its recipe."""
    torch.manual_seed(0)
    stated = recipe.load("nyud_edge", ["network.pretrained=false", "size=[64,96]"])
    network = models.build(stated.network, stated.tasks)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)
            nn.init.normal_(norm.running_mean, 0, 0.3)
    return prepare(network, stated), exact.rewrite(prepare(network, stated), stated), stated


def frames(count=2):
    torch.manual_seed(1)
    coarse = torch.rand(count, 3, 5, 7) * 255
    return nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 255).round()


@pytest.mark.slow
def test_it_is_near_the_float_form(forms):
    plain, rewritten, _ = forms
    with torch.no_grad():
        for task, raw in plain.raw(frames()).items():
            assert (rewritten.raw(frames())[task] - raw).std() < 0.15 * raw.std(), task


@pytest.mark.slow
def test_a_batch_gives_what_each_image_gives(forms):
    _, rewritten, _ = forms
    with torch.no_grad():
        together = rewritten.raw(frames())
        for task, raw in together.items():
            alone = torch.cat([rewritten.raw(frame[None])[task] for frame in frames()])
            torch.testing.assert_close(raw, alone, rtol=1e-4, atol=1e-4)


def test_the_first_layer_computes_the_same_inside(forms):
    plain, rewritten, _ = forms
    made = []
    for form in (plain, rewritten):
        handle = form.network.backbone.net.conv_stem.register_forward_hook(lambda _, __, y: made.append(y))
        with torch.no_grad():
            form.raw(frames(1))
        handle.remove()
    first, second = (y[:, :, 1:-1, 1:-1] for y in made)
    assert (first - second).abs().max() < 1e-5 * first.abs().max()


def test_no_two_classes_are_ever_equal():
    torch.manual_seed(0)
    activate = ExactActivate((8, 12), {"semseg": 40})
    activate.settle("semseg", torch.tensor(0.25))
    codes = torch.randint(-3, 3, (1, 40, 4, 6)) * 0.25  # few codes: without lifts nearly every pixel has a tie
    wide = nn.functional.interpolate(codes + activate.lift_semseg, (8, 12), mode="bilinear")
    top = wide.topk(2, 1).values
    assert (top[:, 0] > top[:, 1]).all()
    plain = nn.functional.interpolate(codes, (8, 12), mode="bilinear").topk(2, 1).values
    assert (plain[:, 0] == plain[:, 1]).any()
    lifted, exactly = activate({"semseg": codes})["semseg"], wide.argmax(1)
    assert torch.equal(lifted, exactly.int())
    chosen = nn.functional.interpolate(codes, (8, 12), mode="bilinear").gather(1, exactly[:, None])[:, 0]
    assert torch.equal(chosen, plain[:, 0])  # a lift decides between equals alone


@pytest.mark.parametrize("scale", [2.0**-k for k in range(1, 8)])
def test_probabilities_are_rounded_far_from_what_a_sigmoid_can_give(scale):
    activate = ExactActivate((4, 4), {"edge": 1})
    activate.settle("edge", torch.tensor(scale))
    points = np.arange(-128 * 16, 127 * 16 + 1) * scale / 16
    values = 256 / (1 + np.exp(-points)) + float(activate.lift_edge)
    away = np.abs(values - np.round(values)).min()
    assert away > 256 * 2.0**-20
    raw = torch.tensor(points, dtype=torch.float32).view(1, 1, -1, 1)
    activate.size = tuple(raw.shape[2:])
    assert (activate({"edge": raw})["edge"].flatten() - raw.flatten().sigmoid()).abs().max() < 1 / 256


@pytest.mark.parametrize("taken, made", [(8, 30), (2, 3), (5, 15), (7, 3), (1, 3)])
def test_matrices_resize_as_torch_does_but_for_their_weights(taken, made):
    matrix = layers._matrix(taken, made)
    assert torch.equal(matrix * 64, (matrix * 64).round()) and torch.equal(matrix.sum(1), torch.ones(made))
    x = torch.rand(1, 1, taken, 1)
    wanted = nn.functional.interpolate(x, (made, 1), mode="bilinear")
    assert (matrix @ x - wanted).abs().max() <= 1 / 64
