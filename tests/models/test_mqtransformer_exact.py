"""MQTransformer's exact form: near the float one, no islands, and the same codes and maps in other runtimes."""

import numpy as np
import pytest
import torch

from edgemtl import recipe
from edgemtl.models import _mqtransformer_exact as forms
from edgemtl.models.mqtransformer import Attend, MQTransformer
from edgemtl.networks.points import Point
from edgemtl.networks.prepare import prepare
from edgemtl.quantization import exact, proof
from edgemtl.quantization.quantizers import FakeQuantize
from tests import toy
from tests.exactness import assert_near, assert_same_in, without_nudges
from tests.models.test_sca import stirred
from tests.models.test_sca_exact import Trunk

pytestmark = pytest.mark.slow

SIZE = (72, 104)  # maps of 9x13 at stride 8
EDGE = recipe.load("nyud_mqtransformer_edge", ["network.pretrained=false", f"size={list(SIZE)}"])
STATED = EDGE.model_copy(update={"tasks": toy.TASKS})
SLIM = {"width": 12, "heads": 3, "queries": 16, "key_width": 6, "pixel_hidden": 12, "head_width": 6}


def network():
    torch.manual_seed(0)
    tasks = {name: task.channels for name, task in toy.TASKS.items()}
    return stirred(MQTransformer(Trunk(), tasks, **EDGE.network.options | SLIM))


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
    places = ("reads.depth", "shares.attend", "looks.depth.attend", "encoder.norm", "key_norm")
    places = [f"blocks.0.{place}" for place in places]
    shown = without_nudges(quantized, SIZE, places)
    assert set(shown.islands) == {f"network.{place}.ratio.given.quantizer.scale" for place in places}
    assert shown.exact == ()


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_other_runtimes_have_torchs_codes_and_maps(made, target, tmp_path):
    assert_same_in(target, *made, SIZE, tmp_path)


@torch.no_grad()
def test_it_is_near_the_float_form_and_takes_images_one_by_one():
    rewritten = exact.rewrite(prepare(network(), STATED), STATED)
    assert_near(prepare(network(), STATED), rewritten, SIZE, share=0.02)


def quantized(attend, values):
    """An ExactAttend with quantizers, whose values reach so far."""
    for path, point in attend.named_modules():
        if isinstance(point, Point):
            scale = torch.tensor(point.scale or 2.0 ** np.ceil(np.log2(values / 127)))
            point.quantizer = FakeQuantize(scale, None, "activation", path)
    attend.settle()
    return attend


@pytest.mark.parametrize("keys", [16, 17, 64, 1200, 5000])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0, 40.0])
@torch.no_grad()
def test_attention_is_near_a_softmax_however_many_keys_share_it(keys, spread):
    torch.manual_seed(0)
    logits, values = spread * torch.randn(1, 2, 30, keys), torch.randn(1, 6, keys)
    wanted = Attend()(logits, values)
    attend = forms.ExactAttend(keys)
    torch.testing.assert_close(attend(logits, values), wanted, rtol=0, atol=0.02)
    assert (quantized(attend, 4.0)(logits, values) - wanted).abs().max() < 0.07


@pytest.mark.parametrize("keys", [16, 64, 1200, 2048, 5000])
def test_sums_over_keys_fit_float32(keys):
    attend = forms.ExactAttend(keys)
    for powers in filter(None, (attend.near, attend.far)):
        largest = 1 if powers is attend.near else np.exp(forms.BORDER)
        assert keys // attend.parts * round(largest / powers.scale) * 128 < 2**24


@torch.no_grad()
def test_many_far_keys_count_together():
    """1200 pixels, one of which is nearer by a factor of 200: almost all that is read is of the others."""
    logits, values = torch.zeros(1, 1, 1, 1200), torch.full((1, 1, 1200), 1.0)
    logits[..., 7], values[..., 7] = np.log(200), -1.0
    wanted = Attend()(logits, values).item()
    assert wanted == pytest.approx((1199 - 200) / 1399, rel=1e-5)
    assert quantized(forms.ExactAttend(1200), 2.0)(logits, values).item() == pytest.approx(wanted, abs=0.05)
