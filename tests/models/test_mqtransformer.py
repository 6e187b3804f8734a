"""MQTransformer's parts and its deployment form. Parity with the authors' code is in tests/networks/reference."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgemtl.models.mqtransformer import Attend, DropPath, Encoder, MQTransformer, Queries, dots
from edgemtl.networks.prepare import prepare
from edgemtl.quantization import calibrate, quantizers
from edgemtl.records import recipe
from tests.models.small import Stages

pytestmark = pytest.mark.slow

EDGE = recipe.load("nyud_mqtransformer_edge", ["network.pretrained=false"])
TASKS = {"semseg": 5, "depth": 1, "edge": 1}


def small(**options):
    torch.manual_seed(0)
    return MQTransformer(Stages(), TASKS, **({"width": 12, "heads": 3, "queries": 5, "key_width": 6} | options))


@pytest.mark.parametrize("norm, activation", [("layer", "gelu"), ("batch", "relu")])
def test_every_trainable_parameter_gets_a_gradient(norm, activation):
    made = small(norm=norm, activation=activation, depth=2, fuse_stride=8 if norm == "batch" else 4, drop=0.3)
    sum(x.square().mean() for x in made(torch.randn(4, 3, 64, 64)).values()).backward()
    assert [name for name, p in made.named_parameters() if p.requires_grad and p.grad is None] == []
    frozen = [name for name, p in made.named_parameters() if not p.requires_grad]
    assert frozen and all(".itself.query_key." in name for name in frozen)


@torch.no_grad()
def test_query_key_has_no_effect():
    with_, without = small().eval(), small(keep_query_key=False).eval()
    without.load_state_dict(with_.state_dict(), strict=False)
    image = torch.randn(1, 3, 32, 64)
    for task, x in with_(image).items():
        assert torch.equal(without(image)[task], x)


@torch.no_grad()
def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 12, 7), torch.randn(2, 12, 5), torch.randn(2, 6, 5)
    found = Attend()(dots(query, key, 3), value)
    apart = (x.unflatten(1, (3, -1)).transpose(2, 3) for x in (query, key, value))
    expected = F.scaled_dot_product_attention(*apart).transpose(2, 3).flatten(1, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scaled", [True, False])
@torch.no_grad()
def test_the_encoders_logits_are_queries_times_keys(scaled):
    torch.manual_seed(0)
    encoder, queries = Encoder(12, 6, 3, 12, scaled, "relu", 0.0), Queries(12, 5, 3)
    if scaled:
        nn.init.normal_(encoder.key.scale)
        nn.init.normal_(encoder.key.shift)
    x = torch.randn(1, 12, 4, 7)
    weight, bias = encoder.logits(queries)
    found = F.conv2d(x, weight[..., None, None], bias).flatten(2).unflatten(1, (3, -1))
    position = queries.query_position.repeat(1, 1, 3, 1).flatten(2)  # the same for every head
    asked = F.layer_norm(queries.tokens + position, (12,), encoder.query.scale)
    query = (asked @ encoder.query.weight.flatten(1).mT).mT
    torch.testing.assert_close(found, dots(query, encoder.key(x).flatten(2), 3), rtol=1e-4, atol=1e-5)


def test_drop_path_drops_images_or_places_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(2000, 3, 4, 1)
    for places in (False, True):
        drop = DropPath(0.5, places)
        y = drop(x)
        assert set(y.unique().tolist()) == {0, 2} and abs(y.mean() - 1) < 0.1
        assert (y == y[:, :1]).all() and (y == y[:, :, :1]).all() != places
        assert drop.eval()(x) is x


@pytest.mark.parametrize("norm, activation", [("layer", "gelu"), ("batch", "relu")])
@torch.no_grad()
def test_the_deployment_form_equals_the_network(norm, activation):
    """Norms' scales, constant queries and chains are merged; no parameter is at a value that would hide a mistake."""
    made = small(norm=norm, activation=activation, depth=2, fuse_stride=8).eval()
    for name, x in (*made.named_parameters(), *made.named_buffers()):
        if x.ndim > 1:
            x.normal_(std=x[0].numel() ** -0.5)
        elif x.ndim == 1:
            x.copy_(torch.rand_like(x) + 0.5 if "var" in name or "scale" in name else 0.3 * torch.randn_like(x))
    tiny = recipe.override(EDGE, ["size=[64,96]"])
    deployed, frame = prepare(made, tiny).network, torch.randn(2, 3, 64, 96)
    for task, x in made(frame).items():
        assert (deployed(frame)[task] - x).abs().max() < 1e-4 * x.std(), task
    assert not [m for m in deployed.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(list(deployed.parameters())) < len(list(made.parameters()))


def test_cost_grows_with_the_pixels_and_no_faster():
    with torch.device("meta"), torch.no_grad():
        made, costs = small().eval(), []
        for size in [(120, 160), (480, 640)]:
            with FlopCounterMode(display=False) as counter:
                made(torch.empty(1, 3, *size))
            costs.append(counter.get_total_flops())
    assert 14 < costs[1] / costs[0] < 16.5


def test_it_quantizes_and_attention_stays_float():
    tiny = recipe.override(EDGE, ["size=[32,64]"])
    torch.manual_seed(0)
    made = MQTransformer(Stages(), {"depth": 1, "edge": 1}, 12, 5, 3, norm="batch", activation="relu").eval()
    deployed = prepare(made, tiny).network
    frames = [torch.randn(1, 3, 32, 64) for _ in range(2)]
    quantized, counts = calibrate.quantize(deployed, [0, 1], frames.__getitem__)
    layers = {name for name, m in deployed.named_modules() if isinstance(m, nn.Conv2d)}
    assert counts["weights"] == len(layers)
    places = [slot for slots in quantizers.quantizers(quantized).values() for slot in slots]
    assert not [slot for slot in places if "pre_hooks" in slot and ("matmul" in slot or "softmax" in slot)]
