"""The network as torch exports it for Core ML, and which of its operations stay float32."""

import pytest
import torch

from edgemtl.networks import purposes
from tests import toy

pytest.importorskip("coremltools")

from edgemtl.targets.coreml import graph


@pytest.mark.parametrize("exact", [True, False])
def test_exact_attention_stays_float32(exact: bool) -> None:
    class Whole(torch.nn.Module):
        purpose = purposes.ATTENTION

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2.0**20).floor() * 2.0**-20

    deployed = toy.deployed("fp32")
    deployed.network.sampled = torch.nn.Sequential(deployed.network.sampled, Whole())
    deployed.is_exact = exact  # type: ignore[assignment]
    exported = graph.export(deployed, toy.SIZE, list(toy.TASKS))
    names = {n.name for number, n in enumerate(exported.program.graph.nodes) if number in exported.float32}
    assert ("floor" in names) == exact
