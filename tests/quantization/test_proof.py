"""The proof against arithmetic: what it calls exact is so in float64 and in any order, and it sees each flaw."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgemtl.networks.points import Point
from edgemtl.quantization import lattice, proof, quantizers
from edgemtl.quantization.quantizers import FakeQuantize
from tests import toy

pytestmark = pytest.mark.slow

FRAME = torch.zeros(1, 3, 16, 24)


def point(scale: float) -> Point:
    made = Point(scale)
    made.quantizer = FakeQuantize(torch.tensor(scale), None, "activation", f"point{scale}")
    return made


def conv(taken: int, made: int, scale: float = 2.0**-6, size: int = 1, **options: int) -> nn.Conv2d:
    """A layer whose weights are 7-bit codes times the scale and whose biases are on the grid of 2**-12."""
    layer = nn.Conv2d(taken, made, size, padding=size // 2, **options).requires_grad_(False)  # type: ignore[arg-type]
    layer.weight.copy_(torch.randint(-64, 64, layer.weight.shape) * scale)
    assert layer.bias is not None
    layer.bias.copy_(torch.randint(-2000, 2000, layer.bias.shape) * 2.0**-12)
    return layer


class Chain(nn.Module):
    """Convolutions, codes between them, a sum and a doubling of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep, self.last = conv(3, 8, size=3), conv(8, 8, size=3, groups=8), conv(8, 4)
        self.points = nn.ModuleList([point(2.0**-6), point(2.0**-2), point(2.0**-2)])

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        x = self.points[0]((frame - 128) * 2.0**-6)
        x = self.points[1](F.relu6(self.first(x)))
        x = self.points[2](x + self.deep(x))
        return {"depth": F.interpolate(self.last(x), scale_factor=2.0, mode="bilinear")}


def chain() -> Chain:
    torch.manual_seed(0)
    return Chain().eval()


def shuffled(layer: nn.Conv2d, order: Tensor) -> None:
    """Makes the layer read its inputs in another order."""
    layer.weight.copy_(layer.weight[:, order])


# ---- what is exact


def test_a_chain_on_the_grid_is_exact_in_every_order_and_type() -> None:
    network = chain()
    found = proof.prove(network, FRAME)
    assert found.exact == ("depth",) and not found.islands and all(not of for of in found.codes.values())
    assert found.bits <= 24
    frames = torch.randint(0, 256, (4, 3, 16, 24)).float()
    with torch.no_grad():
        wanted = network(frames)["depth"]
        fine = Chain().double()
        fine.load_state_dict(network.state_dict())
        for own, other in zip(fine.points, network.points, strict=True):
            scale = other.quantizer.scale.double()
            own.quantizer = Round(scale)
        assert torch.equal(fine(frames.double())["depth"].float(), wanted)
        order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
        x = network.points[2].quantizer
        inputs: list[Tensor] = []
        handle = x.register_forward_hook(lambda _, __, y: inputs.append(y))
        network(frames)
        handle.remove()
        shuffled(network.last, order)
        again = F.interpolate(network.last(inputs[0][:, order]), scale_factor=2.0, mode="bilinear")
    assert torch.equal(again, wanted)


class Round(nn.Module):
    """Codes in float64."""

    def __init__(self, scale: Tensor):
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.scale).round().clamp(-128, 127) * self.scale


def test_bounds_hold_for_what_is_computed() -> None:
    network = chain()
    made: list[Tensor] = []
    network.last.register_forward_hook(lambda _, __, y: made.append(y))
    frames = torch.cat([torch.zeros(1, 3, 16, 24), torch.full((1, 3, 16, 24), 255.0), torch.rand(4, 3, 16, 24) * 255])
    with torch.no_grad():
        network(frames.round())
    found = proof.prove(network, FRAME)
    [values] = made[:1]
    assert torch.log2(values.abs().max() / 2.0**-8).item() <= found.bits
    assert torch.equal(values, (values * 2.0**12).round() * 2.0**-12)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) > 1e-30))
def test_the_unit_of_a_number_is_the_largest_power_of_two_in_it(number: float) -> None:
    unit = float(lattice.power(number))
    whole = Fraction(number) / Fraction(unit)
    assert whole.denominator == 1 and whole.numerator % 2 == 1
    assert np.log2(unit) == round(np.log2(unit))


# ---- what is not


def flawed(change) -> proof.Proof:  # type: ignore[no-untyped-def]
    network = chain()
    with torch.no_grad():
        change(network)
    return proof.prove(network, FRAME)


def test_a_bias_between_two_numbers_of_the_grid_is_noticed() -> None:
    found = flawed(lambda n: n.first.bias.add_(1e-7))
    assert "bits" in found.islands["first/conv2d"] and found.exact == ()


def test_settling_puts_it_back_on_the_grid() -> None:
    network = chain()
    with torch.no_grad():
        network.first.bias.add_(1e-5)
    before = network.first.bias.clone()
    proof.prove(network, FRAME, settle=True)
    assert (network.first.bias - before).abs().max() < 2.0**-12
    assert torch.equal(network.first.bias.half().float(), network.first.bias)
    assert proof.prove(network, FRAME).exact == ("depth",)


def test_a_scale_that_is_no_power_of_two_is_noticed() -> None:
    found = flawed(lambda n: n.points[1].quantizer.scale.copy_(torch.tensor(0.3)))
    assert found.exact == () and found.islands


def test_a_resize_by_three_is_noticed() -> None:
    class Third(Chain):
        def forward(self, frame: Tensor) -> dict[str, Tensor]:
            x = self.points[0]((frame - 128) * 2.0**-6)
            return {"depth": F.interpolate(x, scale_factor=3.0, mode="bilinear")}

    found = proof.prove(Third().eval(), FRAME)
    [reason] = found.islands.values()
    assert "no fractions of two" in reason and found.exact == ()


@pytest.mark.parametrize(
    "operation, named",
    [
        (lambda x: x.softmax(1), "softmax is not exact"),
        (lambda x: F.layer_norm(x, x.shape[2:]), "layer_norm is not exact"),
        (lambda x: x.argmax(1), "two classes may be equal"),
        (lambda x: F.silu(x), "silu is not exact"),
        (lambda x: x / (x.abs().amax() + 1), "is not exact"),
        (lambda x: F.interpolate(x, (32, 48), mode="bilinear", align_corners=True), "between corners"),
        (lambda x: x + torch.linspace(0, 1, 24), "bits"),
        (lambda x: x * torch.linspace(0, 1, 24), "bits"),
        (lambda x: x * x * x * x, "bits"),
    ],
)
def test_an_island_is_named_and_codes_behind_it_are_not_certain(operation, named) -> None:  # type: ignore[no-untyped-def]
    class Island(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.behind = point(2.0**-6), point(2.0**-5)

        def forward(self, frame: Tensor) -> dict[str, Tensor]:
            return {"depth": self.behind(operation(self.before((frame - 128) * 2.0**-6)).float())}

    found = proof.prove(Island().eval(), FRAME)
    if "argmax" in str(found.islands):
        assert named in str(found.islands) and found.exact == ()
        return
    [island] = [name for name, why in found.islands.items() if named in why]
    sure = {scale: not islands for scale, islands in found.codes.items()}
    assert sure == {"before.quantizer.scale": True, "behind.quantizer.scale": False}
    assert found.outputs["depth"] >= {island}


@pytest.mark.parametrize("summed", [False, True])
def test_numbers_of_distant_grids_may_stand_side_by_side_but_not_be_summed(summed: bool) -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse, self.behind = point(2.0**-14), point(32.0), point(8.0)

        def forward(self, frame: Tensor) -> dict[str, Tensor]:
            parts = [self.fine(frame - 128), self.coarse((frame - 128) * 64)]
            return {"depth": self.behind(parts[0] + parts[1] if summed else torch.cat(parts, 2))}

    assert proof.prove(Beside().eval(), FRAME).exact == (() if summed else ("depth",))


@pytest.mark.parametrize(("steps", "rounded"), [((6, 6), False), ((6, 3), True), ((6, 3), False)])
def test_joined_codes_of_several_scales_are_exact_only_where_they_are_rounded_again(
    steps: tuple[int, int], rounded: bool
) -> None:
    """OpenVINO gives the codes of both one scale, if a layer reads them as they are."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(point(2.0**-step) for step in steps)
            self.rounds = point(2.0**-4) if rounded else nn.Identity()
            self.layer = nn.Conv2d(6, 1, 3, bias=False)
            self.layer.weight.data = torch.ones(1, 6, 3, 3) * 2.0**-6

        def forward(self, frame: Tensor) -> dict[str, Tensor]:
            x = torch.cat([part((frame - 128) * 2.0**-shift) for part, shift in zip(self.parts, (6, 3))], 1)
            return {"depth": self.layer(self.rounds(x))}

    found = proof.prove(Joined().eval(), FRAME)
    exact = rounded or len(set(steps)) == 1
    assert found.exact == (("depth",) if exact else ())
    assert exact or "joins codes of several scales" in str(found.islands)


# ---- the device network


@pytest.fixture(scope="module")
def edge():  # type: ignore[no-untyped-def]
    return toy.exact_edge()


@pytest.fixture(scope="module")
def prove_edge(edge):  # type: ignore[no-untyped-def]
    """The proof of the network with the constants that it has now; they are no part of its graph."""
    frame = torch.zeros(1, 3, 64, 96)
    program = quantizers.export(edge, frame)
    return lambda: proof.prove(edge, frame, program=program)


def test_nyud_edge_is_exact_from_the_camera_to_every_map(prove_edge) -> None:  # type: ignore[no-untyped-def]
    found = prove_edge()
    assert found.islands == {} and set(found.exact) == {"semseg", "depth", "normals", "edge"}
    assert all(not islands for islands in found.codes.values()) and found.bits <= 24


def test_without_the_lifts_two_classes_may_be_equal(edge, prove_edge) -> None:  # type: ignore[no-untyped-def]
    lift = edge.activate.lift_semseg.clone()
    edge.activate.lift_semseg.zero_()
    found = prove_edge()
    edge.activate.lift_semseg.copy_(lift)
    assert "semseg" not in found.exact and "two classes may be equal" in str(found.islands)


def test_without_the_nudge_what_is_sampled_may_lie_at_a_tie(edge, prove_edge) -> None:  # type: ignore[no-untyped-def]
    sampler = edge.network.mixers["depth"][0].spatial[0]
    nudge = sampler.nudge.clone()
    sampler.nudge.zero_()
    found = prove_edge()
    sampler.nudge.copy_(nudge)
    assert "rounds values that may lie at a tie" in found.islands.values() and found.exact == ()


def test_positions_that_are_no_fractions_of_a_pixel_are_noticed(edge, prove_edge) -> None:  # type: ignore[no-untyped-def]
    grid = edge.network.mixers["depth"][0].spatial[0].coordinates
    base = grid.base.clone()
    grid.base.add_(0.01)
    found = prove_edge()
    grid.base.copy_(base)
    assert "positions are no whole fractions of a pixel" in found.islands.values()


@pytest.mark.parametrize("parts", [1, 2])
def test_a_map_in_parts_is_followed(parts: int) -> None:
    """One part alone is what `chunk` gives for a network with one task."""

    class Parts(Chain):
        def forward(self, frame: Tensor) -> dict[str, Tensor]:
            x = self.points[0]((frame - 128) * 2.0**-6)
            x = torch.cat(self.first(x).chunk(parts, 1), 1)
            x = self.points[2](F.relu6(x))
            return {"depth": self.last(x)}

    assert proof.prove(Parts().eval(), FRAME).exact == ("depth",)


def test_a_product_of_maps_that_are_shifted_by_channel_is_an_island() -> None:
    class Product(Chain):
        def forward(self, frame: Tensor) -> dict[str, Tensor]:
            x = self.points[0]((frame - 128) * 2.0**-6)
            x = x + torch.tensor([0.0, 2.0**-8, 2.0**-7]).view(1, 3, 1, 1)
            return {"depth": x @ x}

    found = proof.prove(Product().eval(), torch.zeros(1, 3, 16, 16))
    assert list(found.islands.values()) == ["a product of what is not exact"] and found.exact == ()
