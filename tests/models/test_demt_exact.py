"""The published DeMT's exact form in files from before it was complete. The whole is in test_every_exact.py."""

import pytest
from torch import nn

from edgemtl.networks.backbones import Enlarge
from edgemtl.networks.prepare import prepare
from edgemtl.quantization import exact
from tests.models.test_every_exact import CASES


@pytest.mark.slow
def test_they_keep_norms_gelu_and_hrnets_own_resizing() -> None:
    case = CASES["demt"]
    old = exact.rewrite(prepare(case.network(), case.stated), case.stated, 1)
    kinds = {type(module).__name__ for module in old.network.modules()}
    assert {"MapNorm", "Gelu", "BatchNorm2d", "ExactSampler"} <= kinds and "Table" not in kinds
    assert all(isinstance(m.point, nn.Identity) for m in old.network.modules() if isinstance(m, Enlarge))
