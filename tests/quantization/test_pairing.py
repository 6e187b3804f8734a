"""What each quantizer is said to read, also where something was computed in place in between."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.networks.points import Point
from edgemtl.quantization import pairing, quantizers
from edgemtl.quantization.quantizers import FakeQuantize

pytestmark = pytest.mark.slow

FRAME = torch.zeros(1, 3, 8, 12)


class Parts(nn.Module):
    """One layer's codes are added to a part of another's, which a third quantizer reads whole."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.points = nn.ModuleDict({name: Point(1.0) for name in ("one", "other", "both")})
        for name, point in self.points.items():
            point.quantizer = FakeQuantize(torch.tensor(1.0), None, "activation", name)

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        x, y = self.points["one"](self.one(frame)), self.points["other"](self.other(frame))
        if self.how == "a view is changed":
            x[:, :2].add_(y[:, :2])
        elif self.how == "a tensor with another reader is changed":
            early = F.relu(x)
            x.add_(y)
            return {"depth": self.points["both"](x), "edge": early}
        elif self.how == "a tensor of one's own is changed":
            x = (x * 2).add_(y).relu_()
        else:
            x = torch.cat([x[:, :2] + y[:, :2], x[:, 2:]], 1)
        return {"depth": self.points["both"](x)}


@pytest.mark.parametrize(
    "how",
    [
        "a view is changed",
        "a tensor with another reader is changed",
        "a tensor of one's own is changed",
        "nothing is changed",
    ],
)
def test_what_was_added_in_place_is_read(how: str) -> None:
    network = Parts(how).eval().requires_grad_(False)
    found = pairing.pairing(network, quantizers.export(network, FRAME))
    assert found.reads == {"one": [[]], "other": [[]], "both": [["one", "other"]]}
    assert found.outputs["depth"] == ["both"] and found.outputs.get("edge", ["one"]) == ["one"]
    assert found.runs == {"one": 1, "other": 1, "both": 1}
