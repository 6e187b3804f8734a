"""Parts of SCA-MTL's exact form. The whole is in test_every_exact.py."""

import pytest
import torch

from edgemtl.models import _sca_exact as forms
from edgemtl.models.sca import Read, Summarise


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
