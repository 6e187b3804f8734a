import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from edgemtl.ground.errors import UsageError
from edgemtl.networks import purposes
from edgemtl.quantization import quantizers
from edgemtl.quantization.quantizers import FakeQuantize, codes, decode, snap


class Coordinates(nn.Module):
    purpose = purposes.COORDINATES

    def forward(self, offset):
        step = torch.linspace(-1, 1, 8)
        rows, columns = torch.meshgrid(step, step, indexing="ij")
        return (offset * 0.1 + torch.stack([columns, rows])).permute(0, 2, 3, 1)


class Sampling(nn.Module):
    """Reads its features where an offset network says."""

    def __init__(self, width=4):
        super().__init__()
        self.stem, self.point, self.head = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, 2, 1), nn.Conv2d(width, 2, 1)
        self.coordinates = Coordinates()

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.grid_sample(x, self.coordinates(self.point(x)), align_corners=True)
        return {"depth": self.head(x)}


def placed(network, *extra):
    """The network with a quantizer on its input, on two weights and in the extra slots."""
    network.eval()
    for name in ("stem", "head"):
        weight = getattr(network, name).weight.detach()
        scale = snap(weight.abs().amax((1, 2, 3)) / 127)
        quantizers.insert(
            network, f"pre_hooks.{name}/conv2d/0__1.0", FakeQuantize(scale, 0, "weight", f"{name}.weight")
        )
    for slot in ("post_hooks.x__0.0", *extra):
        name = quantizers.operation(slot)
        quantizers.insert(network, slot, FakeQuantize(snap(torch.tensor(0.02)), None, "activation", name))
    return network.requires_grad_(False)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return placed(Sampling())


@pytest.fixture
def x():
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@given(st.floats(0, 1e9, width=32))
def test_snapped_scales_are_normal_float16_numbers_nearby(value):
    scale = snap(torch.tensor(value)).item()
    assert float(np.float16(scale)) == scale and 2**-14 <= scale <= 65504
    if 2**-14 <= value <= 65504:
        assert abs(scale - value) <= value * 2**-11


@given(st.floats(2**-14, 10, width=32), st.integers(0, 2**31))
def test_codes_are_what_torch_rounds_to_and_decoding_is_exact(step, seed):
    value = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
    one = snap(torch.tensor(step))
    each = snap(one * torch.arange(1, 7))
    for scale, axis in ((one, None), (each, 0)):
        quantizer = FakeQuantize(scale, axis, "weight", "w")
        decoded = decode(codes(value, scale, axis), scale, axis)
        assert torch.equal(decoded, quantizer(value))
        assert torch.equal(quantizer(decoded), decoded)


def test_the_whole_range_is_used_and_nothing_more():
    scale = torch.tensor(0.5)
    assert codes(torch.tensor([-1e9, -64.0, 63.5, 1e9]), scale, None).tolist() == [-128, -128, 127, 127]


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_tuning_gives_torchs_bits_and_gradient(axis):
    value = (torch.randn(4, 4, 9) * 3).requires_grad_()
    scale = torch.tensor(0.02) if axis is None else torch.tensor([0.01, 0.02, 0.03, 0.04])
    quantizer = FakeQuantize(snap(scale), axis, "activation", "a")
    weight, found = torch.randn_like(value), []
    for quantizer.tuning in (False, True):
        out = quantizer(value)
        found.append((out.detach(), torch.autograd.grad((out * weight).sum(), value)[0]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert (found[0][1] == 0).any() and (found[0][1] != 0).any()


def test_tuning_in_bfloat16_rounds_in_float32():
    value = torch.linspace(-4, 4, 999).bfloat16()
    quantizer = FakeQuantize(snap(torch.tensor(0.03)), None, "activation", "a")
    wanted = quantizer(value.float()).bfloat16()
    quantizer.tuning = True
    assert torch.equal(quantizer(value), wanted)


def test_a_saved_network_loads_with_the_same_bits(network, x, tmp_path):
    quantizers.save(tmp_path / "int8.safetensors", network, {"recipe": "toy"})
    loaded = quantizers.load(tmp_path / "int8.safetensors", Sampling(), x)
    assert torch.equal(loaded(x)["depth"], network(x)["depth"])
    assert quantizers.ledger(loaded) == quantizers.ledger(network)
    with safe_open(tmp_path / "int8.safetensors", "pt") as file:
        assert file.get_tensor("stem.weight").dtype == torch.int8
        assert file.get_tensor("point.weight").dtype == torch.float32


def test_a_file_of_another_network_is_refused(network, x, tmp_path):
    path = tmp_path / "int8.safetensors"
    quantizers.save(path, network, {})
    with pytest.raises(UsageError, match="shape"):
        quantizers.load(path, Sampling(width=5), x)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="truncated"):
        quantizers.load(path, Sampling(), x)


def test_a_quantizer_that_would_never_run_is_refused(x, tmp_path):
    lost = placed(Sampling(), "post_hooks.nowhere/conv2d/0__0.0")
    quantizers.save(tmp_path / "int8.safetensors", lost, {})
    with pytest.raises(UsageError, match="no nowhere/conv2d/0 where it has a quantizer"):
        quantizers.load(tmp_path / "int8.safetensors", Sampling(), x)


def test_float_weights_are_refused(x, tmp_path):
    from edgemtl.networks import checkpoint

    checkpoint.save(tmp_path / "float.safetensors", Sampling().state_dict(), {})
    with pytest.raises(UsageError, match="no int8 weights"):
        quantizers.load(tmp_path / "float.safetensors", Sampling(), x)


def test_the_ledger_names_every_quantized_tensor_and_follows_its_codes(network):
    rows = {row["name"]: row for row in json.loads(json.dumps(quantizers.ledger(network)))}
    assert set(rows) == {"stem.weight", "head.weight", "x"}
    assert len(rows["stem.weight"]["scale"]) == 4 and rows["stem.weight"]["axis"] == 0
    assert isinstance(rows["x"]["scale"], float) and "sha256" not in rows["x"]
    with torch.no_grad():
        network.stem.weight[0, 0, 0, 0] *= -1
    changed = {row["name"]: row for row in quantizers.ledger(network)}
    assert changed["stem.weight"]["sha256"] != rows["stem.weight"]["sha256"]
    assert changed["head.weight"] == rows["head.weight"]


def test_the_frozen_form_exports_and_traces_to_the_same_bits(network, x):
    wanted = network.train()(x)["depth"]  # the mode is of no importance
    program = quantizers.export(network, x)
    assert torch.equal(program.module()(x)["depth"], wanted)
    assert torch.equal(torch.jit.trace(network, x, strict=False)(x)["depth"], wanted)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("fake_quantize" in target for target in targets) == 3
    assert not any("cond" in target or "sym" in target for target in targets)


@pytest.mark.parametrize("slot", ["post_hooks.point/conv2d/0__0.0", "post_hooks.coordinates/add/0__0.0"])
def test_a_quantizer_on_a_sampling_coordinate_is_found(slot, x):
    network = placed(Sampling(), slot)
    program = quantizers.export(network, x)
    assert [quantizers.operation(slot) in name for name in quantizers.on_coordinates(program, network)] == [True]


def test_features_that_offsets_are_computed_from_are_no_coordinates(x):
    network = placed(Sampling(), "pre_hooks.point/conv2d/0__0.0", "post_hooks./relu/0__0.0")
    program = quantizers.export(network, x)
    assert quantizers.on_coordinates(program, network) == []


def test_quantizers_of_outputs_are_idle(network, x):
    assert quantizers.idle(quantizers.export(network, x)) == []
    program = quantizers.export(placed(Sampling(), "post_hooks.head/conv2d/0__0.0"), x)
    assert quantizers.idle(program) == ["__nncf_hooks.post_hooks.head/conv2d/0__0.0.scale"]


def test_nncf_is_imported_in_one_file():
    root = Path(quantizers.__file__).parents[2]
    found = {
        str(path.relative_to(root))
        for folder in ("edgemtl", "targets", "apps", "recipes")
        for path in (root / folder).rglob("*.py")
        if re.search(r"^\s*(import|from) nncf\b|__nncf|_nncf_", path.read_text(encoding="utf-8"), re.M)
    }
    assert found == {"edgemtl/quantization/nncf.py"}
