import numpy as np
import pytest
import torch
from torch import nn

from edgemtl import objectives
from edgemtl.ground.errors import UsageError
from edgemtl.quantization import quantizers, sensitivity
from edgemtl.quantization.quantizers import FakeQuantize, snap
from edgemtl.quantization.replay import Replay
from edgemtl.quantization.sensitivity import Budget, choose_float, groups, noise_matrix, read_budget, reasons, shares

TASKS = ["depth", "normals"]


class Two(nn.Module):
    """A shared layer and one for each of two tasks; an in-place activation and a sum between them."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.heads = nn.ModuleDict({"depth": nn.Conv2d(8, 1, 1), "normals": nn.Conv2d(8, 3, 1)})

    def forward(self, image):
        x = nn.functional.relu(self.stem(image), inplace=True)
        x = x + self.mix(x)
        return {name: head(x) for name, head in self.heads.items()}


def quantized(hopeless=True):
    """The network with quantizers; in the depth head one channel of the weight hides the others from its only scale."""
    torch.manual_seed(0)
    network = Two().eval()
    if hopeless:
        with torch.no_grad():
            network.heads["depth"].weight[0, 0] = 400.0
            network.stem.weight[0] = 0.0  # what that channel sees is nearly nothing, and always the same
            network.stem.bias[0] = 1e-3
    names = {"stem": "stem", "mix": "mix", "heads.depth": "depth", "heads.normals": "normals"}
    for name, called in names.items():
        layer = network.get_submodule(name)
        scale = snap(layer.weight.detach().abs().amax((1, 2, 3)) / 127)
        slot = (
            f"pre_hooks.{called}/conv2d/0__1.0" if called == name else f"pre_hooks./conv2d/{TASKS.index(called)}__1.0"
        )
        quantizers.insert(network, slot, FakeQuantize(scale, 0, "weight", f"{name}.weight"))
    for slot, scale in (
        ("post_hooks.image__0.0", 0.03),
        ("post_hooks./relu_/0__0.0", 0.02),
        ("post_hooks./add/0__0.0", 0.03),
    ):
        made = FakeQuantize(snap(torch.tensor(scale)), None, "activation", quantizers.operation(slot))
        quantizers.insert(network, slot, made)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def x():
    return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def graph(x):
    return Replay(quantized(), x)


# ---- replay


def test_a_replay_gives_the_networks_bits(graph, x):
    every = set(graph.quantizers.values())
    assert len(every) == 7
    network, other = quantized(), torch.randn_like(x)
    values = graph.values(other)
    for name, wanted in network(other).items():
        assert torch.equal(graph.run(other, every)[name], wanted)
        assert torch.equal(graph.again(values, every)[name], wanted)
    for slot in quantizers.slots(network):
        quantizers.remove(network, slot)
    for name, wanted in network(other).items():
        assert torch.equal(graph.outputs(values)[name], wanted)


def test_a_part_of_a_replay_is_the_whole_with_the_same_quantizers(graph, x):
    values = graph.values(x)
    for quantizer in graph.quantizers.values():
        whole, part = graph.run(x, {quantizer}), graph.again(values, {quantizer})
        assert all(torch.equal(whole[name], part[name]) for name in whole)
        assert all(
            torch.equal(a, b) for a, b in zip(graph.outputs(values).values(), graph.run(x).values(), strict=True)
        )


# ---- the matrix


def test_layers_that_read_one_tensor_are_one_group(graph):
    found = {group.name: group for group in groups(graph)}
    assert {name: group.layers for name, group in found.items()} == {
        "stem.weight": ("stem.weight",),
        "mix.weight": ("mix.weight",),
        "heads.depth.weight": ("heads.depth.weight", "heads.normals.weight"),
    }
    held = [q for group in found.values() for q in group.quantizers]
    assert len(held) == len(set(held)) == 7
    assert all(group.latency > 0 for group in found.values())


def test_latency_follows_the_products(graph):
    stem, mix, heads = sorted(groups(graph), key=lambda g: ("stem", "mix", "heads").index(g.name.split(".")[0]))
    dense, depthwise = sensitivity.FLOAT_COST[False] - 1, sensitivity.FLOAT_COST[True] - 1
    assert stem.latency / heads.latency == pytest.approx(8 * 3 * 9 / (8 * 4))
    weighed = 8 * 9 * sensitivity.DEPTHWISE_COST * depthwise
    assert mix.latency / heads.latency == pytest.approx(weighed / (8 * 4 * dense))


def test_the_hopeless_layer_is_named_for_its_task(graph, x):
    rows = groups(graph)
    noises = noise_matrix(graph, rows, [x, x.flip(3)], TASKS)
    worst = [rows[row].name for row in noises.argmax(0)]
    assert worst[0] == "heads.depth.weight" and shares(noises)[:, 0].max() > 0.9
    assert noises[noises.argmax(0)[0], 0] > 100 * noises[noises.argmax(0)[0], 1]
    sound = Replay(quantized(hopeless=False), x)
    fine = noise_matrix(sound, groups(sound), [x], TASKS)
    assert fine[:, 0].max() < 0.1 * noises[:, 0].max()


def test_a_noise_is_that_group_alone(graph, x):
    rows = groups(graph)
    noises = noise_matrix(graph, rows, [x], TASKS)
    network, exact = quantized(), graph.run(x)
    for slot, module in quantizers.slots(network).items():
        if module.name not in {q.name for q in rows[0].quantizers}:
            quantizers.remove(network, slot)
    for column, name in enumerate(TASKS):
        assert noises[0, column] == pytest.approx(objectives.of(name).noise(network(x)[name], exact[name]), rel=1e-6)


def test_noises_of_independent_errors_add_up():
    random = torch.Generator().manual_seed(0)
    for task, channels in (("semseg", 5), ("depth", 1), ("normals", 3), ("edge", 1)):
        wanted, a, b = (torch.randn(1, channels, 200, 200, generator=random) for _ in range(3))
        single = [objectives.of(task).noise(wanted + 0.03 * each, wanted) for each in (a, b)]
        assert objectives.of(task).noise(wanted + 0.03 * (a + b), wanted) == pytest.approx(sum(single), rel=0.1)


# ---- what stays float


def judge_of(graph, x):
    exact, every = graph.run(x), frozenset(graph.quantizers.values())

    def judge(off):
        got = graph.run(x, every - frozenset(off))
        return {name: -100 * objectives.of(name).noise(got[name], exact[name]) for name in TASKS}

    return judge


def test_a_budget_keeps_the_hopeless_layer_float_and_delta_m_improves(graph, x):
    rows = groups(graph)
    noises, judge = noise_matrix(graph, rows, [x], TASKS), judge_of(graph, x)
    before = float(np.mean(list(judge(frozenset()).values())))
    choice = choose_float(rows, noises, Budget(delta_m=before / 10, latency=500.0), judge)
    assert [rows[row].name for row in choice.kept] == ["heads.depth.weight"]
    assert choice.ok and choice.delta_m > before / 10 and before == {n: g for n, g, _ in choice.tried}[0]
    (first, second) = reasons(rows, noises, choice.kept, TASKS)
    assert (first["name"], second["name"]) == ("heads.depth.weight", "heads.normals.weight")
    assert "% of int8's noise in depth" in first["reason"] and "latency" in first["reason"]


def test_a_budget_that_is_met_keeps_nothing_float(graph, x):
    rows = groups(graph)
    choice = choose_float(rows, noise_matrix(graph, rows, [x], TASKS), Budget(delta_m=-1e9), judge_of(graph, x))
    assert choice.kept == [] and choice.ok and len(choice.tried) == 1


def test_a_budget_out_of_reach_says_so_and_gives_the_best(graph, x, capsys):
    rows = groups(graph)
    noises = noise_matrix(graph, rows, [x], TASKS)
    allowed = Budget(delta_m=-1e-9, latency=0.0)
    choice = choose_float(rows, noises, allowed, judge_of(graph, x))
    assert not choice.ok and choice.latency == 0 and choice.kept == []
    sensitivity.show_choice(choice, allowed, "delta_m=-1e-9")
    assert "is not met: delta-m -" in capsys.readouterr().err


def test_latency_alone_spends_all_of_it(graph, x):
    rows = groups(graph)
    choice = choose_float(rows, noise_matrix(graph, rows, [x], TASKS), Budget(latency=1e6), judge_of(graph, x))
    assert sorted(choice.kept) == list(range(len(rows))) and choice.delta_m == pytest.approx(0, abs=1e-9)


def test_budgets():
    assert read_budget("delta_m=-1,latency=+5%") == Budget(-1.0, 5.0)
    assert read_budget("latency=+2.5%") == Budget(None, 2.5)
    for text in ("delta_m=1", "latency=5%", "speed=-1", "delta_m=-1,delta_m=-2", ""):
        with pytest.raises(
            UsageError, match=r"in compression\.budget: a budget is|compression\.budget limits delta_m|so its"
        ):
            read_budget(text)


def test_a_picture_names_the_worst(graph, x, tmp_path):
    rows = groups(graph)
    sensitivity.draw(rows, noise_matrix(graph, rows, [x], TASKS), TASKS, tmp_path / "heat.svg")
    text = (tmp_path / "heat.svg").read_text()
    assert text.startswith("<?xml") and "heads.depth and 1 more" in text


def test_measuring_can_be_stopped_between_groups(x):
    graph = Replay(quantized(), x)
    rows, asked = groups(graph), []

    def check():
        asked.append(None)
        if len(asked) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        noise_matrix(graph, rows, [x], TASKS, check)
    assert len(rows) > 2 == len(asked)
