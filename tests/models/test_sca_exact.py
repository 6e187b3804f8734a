"""SCA-MTL's exact form: near the float one, no islands, and the same codes and maps in other runtimes."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemtl import recipe, registry
from edgemtl.artifact import Manifest
from edgemtl.deployment import equality
from edgemtl.models import _sca_exact as forms
from edgemtl.models.sca import SCA, Read, Summarise
from edgemtl.networks.prepare import prepare
from edgemtl.networks.session import TorchSession
from edgemtl.quantization import exact, proof
from edgemtl.target import Original
from tests import toy
from tests.models.test_sca import SLIM, Stages, stirred

pytestmark = pytest.mark.slow

SIZE = (72, 104)  # maps of 9x13 and 4x6: windows don't divide them, no map is twice another
EDGE = recipe.load("nyud_sca_edge", ["network.pretrained=false", f"size={list(SIZE)}"])
STATED = EDGE.model_copy(update={"tasks": toy.TASKS})


class Trunk(Stages):
    """A backbone of one layer a stage, each on the one before."""

    def __init__(self):
        super().__init__()
        layers = zip((3, *self.channels), self.channels, (4, 2, 2, 2))
        self.layers = nn.ModuleList(nn.Conv2d(i, o, s, s) for i, o, s in layers)

    def forward(self, image):
        return list(itertools.accumulate(self.layers, lambda x, layer: F.relu6(layer(x)), initial=image))[1:]


def network():
    torch.manual_seed(0)
    tasks = {name: task.channels for name, task in toy.TASKS.items()}
    return stirred(SCA(Trunk(), tasks, **SLIM, window=4))


@pytest.fixture(scope="module")
def made():
    """The small network in its exact form, quantized, and its proof."""
    quantized = toy.exact(network(), STATED)
    return quantized, proof.prove(quantized, torch.zeros(1, 3, *SIZE))


def test_every_value_from_the_camera_to_the_maps_is_exact(made):
    _, shown = made
    assert shown.islands == {} and set(shown.exact) == set(toy.TASKS)


def test_without_its_nudge_a_quotient_may_lie_at_a_tie(made):
    quantized, _ = made
    places = ("attention.0.blocks.0.attend", "propagate.0.weigh", "exchange.0.attend", "heads.depth.attend.0")
    nudges = {place: quantized.network.get_submodule(place).ratio.nudge for place in places}
    kept = {place: nudge.clone() for place, nudge in nudges.items()}
    for nudge in nudges.values():
        nudge.zero_()
    shown = proof.prove(quantized, torch.zeros(1, 3, *SIZE))
    for place, nudge in nudges.items():
        nudge.copy_(kept[place])
    assert set(shown.islands) == {f"network.{place}.ratio.given.quantizer.scale" for place in places}
    assert shown.exact == ()


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_other_runtimes_have_torchs_codes_and_maps(made, target, tmp_path):
    pytest.importorskip({"openvino": "openvino", "onnx": "onnxruntime"}[target])
    quantized, shown = made
    tasks = dict.fromkeys(toy.TASKS)
    built = registry.load("targets", target).target
    built.convert(Original(quantized, SIZE, tasks, "int8"), tmp_path)
    manifest = Manifest.model_construct(tasks=tasks, precision="int8", size=SIZE, target=target)
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    torchs = TorchSession(quantized, "cpu")
    found = equality.codes(built, tmp_path, manifest, [frame], torchs, shown, None)
    assert found["ok"] and found["differing"] == {} and found["certain"] == found["quantizers"] > 100
    session = built.open(tmp_path, manifest, None)
    for seed in range(3):
        frame = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
        got, wanted = session(frame), torchs(frame)
        assert all(np.array_equal(got[task], wanted[task]) for task in toy.TASKS)


@torch.no_grad()
def test_it_is_near_the_float_form_and_takes_images_one_by_one():
    plain, rewritten = prepare(network(), STATED), exact.rewrite(prepare(network(), STATED), STATED)
    frames = F.interpolate(torch.rand(2, 3, 5, 7) * 255, SIZE, mode="bicubic").clamp(0, 255).round()
    together, alone = rewritten.raw(frames), rewritten.raw(frames[1:])
    for task, raw in plain.raw(frames).items():
        assert (together[task] - raw).std() < 0.15 * raw.std(), task
        torch.testing.assert_close(together[task][1:], alone[task], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pixels", [(5, 7), (30, 40), (53, 61)])
@torch.no_grad()
def test_linear_attention_is_the_same_for_any_number_of_pixels(pixels):
    """Many pixels are summed in parts, whose sums of products of codes float32 holds."""
    torch.manual_seed(0)
    key, value, query = torch.randn(1, 4, *pixels), torch.rand(1, 4, *pixels), torch.randn(1, 4, 3, 5)
    summarise = forms.ExactSummarise(pixels[0] * pixels[1])
    assert key[0, 0].numel() // summarise.parts * 127**2 < 2**24
    found = forms.ExactRead(4)(query, [summarise(key, value)] * 2)
    torch.testing.assert_close(found, Read()(query, [Summarise()(key, value)] * 2), rtol=1e-3, atol=1e-3)
