"""Parts of MQTransformer's exact form. The whole is in test_every_exact.py."""

import numpy as np
import pytest
import torch

from edgemtl.models import _mqtransformer_exact as forms
from edgemtl.models.mqtransformer import Attend
from edgemtl.networks.points import Point
from edgemtl.quantization.quantizers import FakeQuantize


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
