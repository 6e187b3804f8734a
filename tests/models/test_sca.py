"""SCA-MTL's parts and its deployment form. Parity with the authors' code is in tests/networks/reference."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgemtl.models.sca import SCA, Exchange, Read, Summarise, SummarySource, WindowBlock
from edgemtl.networks.backbones import PaddedBlock
from edgemtl.networks.prepare import prepare
from edgemtl.quantization import calibrate, quantizers
from edgemtl.records import recipe
from tests.models.small import Stages, stirred

pytestmark = pytest.mark.slow

EDGE = recipe.load("nyud_sca_edge", ["network.pretrained=false"])
TASKS = {"semseg": 5, "depth": 1, "edge": 1}
SLIM = {"strides": (8, 16), "widths": (8, 12), "heads": 2, "separable": True, "pairwise": False, "head_width": 6}


def small(tasks=TASKS, **options):
    torch.manual_seed(0)
    return SCA(Stages(), tasks, **({"heads": 1, "window": 4} | options))


@pytest.mark.parametrize("options", [{}, SLIM, {"strides": (4, 16), "blocks": 1}, {"strides": (16,)}])
@torch.no_grad()
def test_deep_supervision_has_a_map_for_every_scale(options):
    made, image = stirred(small(**options)), torch.randn(1, 3, 64, 96)
    deep, raw = made.deep(image), made(image)
    strides = options.get("strides", Stages.strides)
    for task, channels in TASKS.items():
        assert torch.equal(deep[task][0], raw[task])
        assert [x.shape for x in deep[task]] == [(1, channels, 64 // s, 96 // s) for s in (4, *strides)]
    assert {task: len(maps) for task, maps in made.train()(torch.randn(2, 3, 64, 64)).items()} == dict.fromkeys(
        TASKS, 1 + len(strides)
    )


@torch.no_grad()
def test_without_deep_supervision_training_gives_plain_maps():
    made = small(**SLIM, deep_supervision=False).train()
    assert {task: x.shape[1] for task, x in made(torch.randn(2, 3, 32, 32)).items()} == TASKS
    assert not [name for name, _ in made.named_parameters() if name.startswith("refine") and "logits" in name]


@pytest.mark.parametrize("tasks", [TASKS, {"depth": 1}])
@pytest.mark.parametrize("options", [{}, SLIM])
def test_every_parameter_gets_a_gradient(tasks, options):
    made = small(tasks, **options).train()
    sum(x.square().mean() for maps in made(torch.randn(4, 3, 64, 96)).values() for x in maps).backward()
    unread = [f"backbone.layers.3.{kind}" for kind in ("weight", "bias")] if options else []
    assert [name for name, p in made.named_parameters() if p.grad is None] == unread


@torch.no_grad()
def test_a_single_task_has_nothing_to_exchange():
    made = stirred(small({"depth": 1}))
    x = {"depth": torch.randn(1, 12, 3, 4)}
    assert made.exchange[1](x) is x and not list(made.exchange.parameters())
    assert made.propagate[0].attention is None
    assert made(torch.randn(1, 3, 32, 64))["depth"].shape == (1, 1, 8, 16)


@pytest.mark.parametrize("pairwise", [True, False])
@torch.no_grad()
def test_tasks_exchange_what_they_say(pairwise):
    """A task's result depends on every other task's map."""
    torch.manual_seed(0)
    made = stirred(Exchange(list(TASKS), 4, False, pairwise))
    maps = {task: torch.randn(1, 4, 5, 6) for task in TASKS}
    before = made(maps)
    for other in TASKS:
        after = made(maps | {other: torch.randn(1, 4, 5, 6)})
        assert all(not torch.equal(before[task], after[task]) for task in TASKS)


@pytest.mark.parametrize("shift", [0, 3])
@torch.no_grad()
def test_a_window_block_is_swins_without_its_mlp(shift):
    torch.manual_seed(0)
    height, width, channels, heads = 9, 17, 12, 3
    theirs = PaddedBlock(
        channels, (height, width), heads, window_size=7, shift_size=shift, always_partition=True, dynamic_mask=True
    )
    nn.init.zeros_(theirs.mlp.fc2.weight)
    nn.init.zeros_(theirs.mlp.fc2.bias)
    ours = stirred(WindowBlock(channels, heads, 7, shift, 0.2))
    theirs.norm1.load_state_dict(ours.norm.state_dict())
    theirs.attn.relative_position_bias_table.copy_(ours.table)
    for layer, other in [(theirs.attn.qkv, ours.qkv), (theirs.attn.proj, ours.project)]:
        layer.weight.copy_(other.weight[:, :, 0, 0])
        layer.bias.copy_(other.bias)
    x = torch.randn(2, channels, height, width)
    expected = theirs.eval()(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.merge(x.shape)(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_linear_attention_is_the_mean_value_weighed_by_how_keys_fit():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 6, 3, 5), torch.randn(2, 6, 2, 4), torch.rand(2, 6, 2, 4)
    found = Read()(query, [Summarise()(key, value)])
    asked, told = (torch.log1p(x.exp()).flatten(2) for x in (query, key))
    weights = asked.transpose(1, 2) @ told  # (B, 15, 8)
    weights = weights / weights.sum(2, keepdim=True)
    expected = (weights @ value.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(query.shape)
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_linear_attention_holds_in_float16():
    """Sums over the pixels of large keys would pass float16's largest number."""
    torch.manual_seed(0)
    query, key, value = 20 * torch.rand(1, 8, 60, 80), 20 * torch.rand(1, 8, 60, 80), 5 * torch.rand(1, 8, 60, 80)
    found = Read()(query.half(), [Summarise()(key.half(), value.half())])
    torch.testing.assert_close(found.float(), Read()(query, [Summarise()(key, value)]), rtol=0.02, atol=0)


@pytest.mark.parametrize("options", [{}, SLIM, {"widths": (4, 8, 8, 12), "head_width": 5}])
@pytest.mark.parametrize("tasks", [TASKS, {"depth": 1}])
@torch.no_grad()
def test_the_deployment_form_equals_the_network(tasks, options):
    """Windows that do not divide the maps; masks constant, repeated maps read once, deep supervision gone."""
    made = stirred(small(tasks, **options))
    tiny = recipe.override(EDGE, ["size=[72,104]"])
    deployed, frame = prepare(made, tiny).network, torch.randn(2, 3, 72, 104)
    for task, x in made(frame).items():
        assert (deployed(frame)[task] - x).abs().max() < 1e-4 * x.std(), task
    assert not [m for m in deployed.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not [name for name, _ in deployed.named_parameters() if name.endswith("table")]
    fewer = sum(p.numel() for p in deployed.parameters()) < sum(p.numel() for p in made.parameters())
    assert fewer


def test_cost_grows_with_the_pixels_and_no_faster():
    with torch.device("meta"), torch.no_grad():
        made, costs = small({"depth": 1, "edge": 1}).eval(), []
        for size in [(120, 160), (480, 640)]:
            with FlopCounterMode(display=False) as counter:
                made(torch.empty(1, 3, *size))
            costs.append(counter.get_total_flops())
    assert 14 < costs[1] / costs[0] < 16.5


def test_it_quantizes_and_attention_stays_float():
    tiny = recipe.override(EDGE, ["size=[32,64]"])
    slim = SLIM | {"strides": (4,), "widths": (8,), "blocks": 1}
    deployed = prepare(stirred(small({"depth": 1, "edge": 1}, **slim)), tiny).network
    frames = [torch.randn(1, 3, 32, 64) for _ in range(2)]
    quantized, counts = calibrate.quantize(deployed, [0, 1], frames.__getitem__)
    assert counts["weights"] == len([layer for layer in deployed.modules() if isinstance(layer, nn.Conv2d)])
    places = [slot for slots in quantizers.quantizers(quantized).values() for slot in slots]
    inside = [slot for slot in places if "attend/" in slot]
    results = ("attend/matmul/1__0.0", "attend/unflatten/1__0.0", "attend/unflatten/3__0.0")  # what next layers read
    assert len(inside) == 4 and all(slot.startswith("post_hooks.") and slot.endswith(results) for slot in inside)


def test_attention_over_tasks_needs_channels_for_its_heads():
    with pytest.raises(ValueError, match=r"3 tasks' 6 channels .* 4 heads"):
        small(widths=(4, 6, 8, 12))


@torch.no_grad()
def test_a_source_is_read_through_its_summary():
    torch.manual_seed(0)
    source = stirred(SummarySource(4))
    keys, shared = source(torch.randn(2, 4, 3, 3))
    assert keys.shape == (2, 4, 1) and shared.shape == (2, 4, 4) and (keys > 0).all() and (shared >= 0).all()
