import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgemtl.networks import purposes
from edgemtl.records.recipe import Training
from edgemtl.training import schedule

NEEDED = {"iterations": 100, "batch": 1, "rate": 0.5, "validate_every": 1, "save_every": 1, "weights": {}}


def training(**options):
    return Training(**NEEDED | options)


def test_poly_is_the_papers():
    rates = [schedule.rate(training(power=0.9), iteration) for iteration in (0, 50, 99)]
    assert rates == pytest.approx([0.5, 0.5 * 0.5**0.9, 0.5 * 0.01**0.9])


def test_poly_warms_up_linearly():
    warm, cold = training(warmup=0.1), training()
    shares = [schedule.rate(warm, iteration) / schedule.rate(cold, iteration) for iteration in (0, 4, 9, 20)]
    assert shares == pytest.approx([0.1, 0.5, 1, 1])


def test_poly_may_fall_once_an_epoch():
    options = training(rate_every=40)
    rates = [schedule.rate(options, iteration) for iteration in (0, 39, 40, 99)]
    assert rates == pytest.approx([0.5, 0.5, 0.5 * 0.6**0.9, 0.5 * 0.2**0.9])


def test_one_cycle_rises_from_a_25th_and_falls_to_nothing():
    cycle = training(schedule="one-cycle", warmup=0.3)
    assert [schedule.rate(cycle, iteration) for iteration in (0, 30, 65)] == pytest.approx([0.02, 0.5, 0.25])
    assert 0 < schedule.rate(cycle, 99) < 0.5 * (math.pi / 2 / 70) ** 2 * 1.01


@given(st.sampled_from(["poly", "one-cycle"]), st.floats(0, 1), st.integers(1, 50), st.data())
def test_the_rate_is_positive_and_at_most_the_recipes(kind, warmup, iterations, data):
    options = training(schedule=kind, warmup=warmup, iterations=iterations)
    assert 0 < schedule.rate(options, data.draw(st.integers(0, iterations - 1))) <= 0.5


class Trunk(nn.Conv2d):
    purpose = purposes.BACKBONE


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.head = Trunk(3, 4, 1), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 1, 1)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_groups_tell_backbone_from_rest_and_weights_from_norms(kind):
    network = Net()
    options = training(optimizer=kind.__name__.lower(), backbone_rate=0.1, weight_decay=0.02)
    balance = nn.ParameterList([torch.zeros(2, 2)])
    made = schedule.optimizer(network, options, balance)
    assert type(made) is kind
    assert schedule.set_rate(made, training(), 0) == 0.5
    found = {id(p): (group["lr"], group["weight_decay"]) for group in made.param_groups for p in group["params"]}
    assert found[id(balance[0])] == (0.5, 0.0)
    assert {name: found[id(p)] for name, p in network.named_parameters()} == {
        "trunk.weight": (0.05, 0.02),
        "trunk.bias": (0.05, 0.0),
        "head.weight": (0.5, 0.0),
        "head.bias": (0.5, 0.0),
        "last.weight": (0.5, 0.02),
        "last.bias": (0.5, 0.0),
    }


def test_average_moves_floats_and_copies_counters():
    mine, theirs = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    theirs.load_state_dict({name: value + 10 for name, value in theirs.state_dict().items()})
    schedule.average(mine, theirs, 0.9, 1_000_000)
    assert mine.weight.item() == pytest.approx(1 + 1) and mine.running_mean.item() == pytest.approx(1)
    assert mine.num_batches_tracked.item() == 10
    schedule.average(mine, theirs, 0.9, 0)  # the first steps count for more
    assert mine.weight.item() == pytest.approx(0.1 * 2 + 0.9 * 11)
