"""SCA-MTL's exact form: near the float one, no islands, and the same codes and maps in other runtimes."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemtl import recipe
from edgemtl.models import _sca_exact as forms
from edgemtl.models.sca import SCA, Read, Summarise
from edgemtl.networks.prepare import prepare
from edgemtl.quantization import exact, proof
from tests import toy
from tests.exactness import assert_near, assert_same_in, without_nudges
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
    shown = without_nudges(quantized, SIZE, places)
    assert set(shown.islands) == {f"network.{place}.ratio.given.quantizer.scale" for place in places}
    assert shown.exact == ()


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_other_runtimes_have_torchs_codes_and_maps(made, target, tmp_path):
    assert_same_in(target, *made, SIZE, tmp_path)


@torch.no_grad()
def test_it_is_near_the_float_form_and_takes_images_one_by_one():
    rewritten = exact.rewrite(prepare(network(), STATED), STATED)
    assert_near(prepare(network(), STATED), rewritten, SIZE, share=0.15)


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
