"""The factors against the papers' formulas, and what a task without labels leaves alone."""

import math

import pytest
import torch

from edgemtl.training.balance import DynamicAverage, Fixed, Uncertainty

TASKS = ("semseg", "depth", "edge")
WEIGHTS = torch.tensor([1.0, 2.0, 50.0])
LOSSES = torch.tensor([3.0, 0.5, 0.1])
ALL = torch.tensor([True, True, True])
NO_DEPTH = torch.tensor([True, False, True])


def test_fixed_factors_are_one_and_nothing_learns():
    balance = Fixed(TASKS)
    assert balance.factors().tolist() == [1, 1, 1]
    assert balance.objective(WEIGHTS, LOSSES, ALL) is None and not balance.state_dict()


def test_uncertainty_is_the_papers_objective():
    balance = Uncertainty(TASKS)
    assert balance.factors().tolist() == [1, 0.5, 1]  # depth is regression
    with torch.no_grad():
        for name, value in zip(TASKS, (0.3, -0.4, 0.0)):
            balance.log_variance[name].fill_(value)
    sigma = [math.exp(s / 2) for s in (0.3, -0.4, 0.0)]
    factors = [1 / sigma[0] ** 2, 1 / (2 * sigma[1] ** 2), 1 / sigma[2] ** 2]
    assert balance.factors().tolist() == pytest.approx(factors)
    expected = sum(w * (f * loss + math.log(s)) for w, f, loss, s in zip(WEIGHTS, factors, LOSSES, sigma))
    assert balance.objective(WEIGHTS, LOSSES, ALL).item() == pytest.approx(float(expected))


def test_the_variance_settles_where_it_equals_the_loss():
    balance = Uncertainty(TASKS)
    optimizer = torch.optim.Adam(balance.parameters(), 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        balance.objective(WEIGHTS, LOSSES, ALL).backward()
        optimizer.step()
    assert (balance.factors() * LOSSES).tolist() == pytest.approx([0.5] * 3, rel=1e-2)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_task_without_labels_keeps_its_variance_in_spite_of_momentum(kind):
    balance = Uncertainty(TASKS)
    optimizer = kind(balance.parameters(), 0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    seen = []
    for labelled in (ALL, NO_DEPTH, NO_DEPTH):
        optimizer.zero_grad()
        balance.objective(WEIGHTS, LOSSES * labelled, labelled).backward()
        optimizer.step()
        seen.append([balance.log_variance[name].item() for name in TASKS])
    assert seen[0][1] == seen[1][1] == seen[2][1] != 0
    assert seen[0][0] != seen[1][0]
    assert Uncertainty(TASKS).objective(WEIGHTS, LOSSES, torch.zeros(3, dtype=bool)) is None


def epoch(balance, losses, labelled=ALL):
    for part, ends in ((0.5, False), (1.5, True)):  # two steps with this mean
        balance.observe(part * torch.tensor(losses) * labelled, labelled, ends)


def dwa(*ratios):
    exps = [math.exp(r / 2) for r in ratios]
    return [len(ratios) * e / sum(exps) for e in exps]


def test_dynamic_averages_are_the_papers_weights():
    balance = DynamicAverage(TASKS)
    epoch(balance, [3.0, 0.5, 0.1])
    assert balance.factors().tolist() == pytest.approx([1, 1, 1])  # one epoch says nothing
    epoch(balance, [1.5, 0.5, 0.2])
    assert balance.factors().tolist() == pytest.approx(dwa(0.5, 1, 2))
    balance.observe(torch.tensor([100.0, 1.0, 1.0]), ALL, False)  # only whole epochs count
    assert balance.factors().tolist() == pytest.approx(dwa(0.5, 1, 2))
    assert balance.factors().sum().item() == pytest.approx(3)


def test_dynamic_averages_leave_a_task_without_labels_alone():
    balance = DynamicAverage(TASKS)
    epoch(balance, [3.0, 0.5, 0.1])
    epoch(balance, [1.5, 0.4, 0.2])
    epoch(balance, [1.5, 9.9, 0.2], NO_DEPTH)
    assert balance.factors().tolist() == pytest.approx(dwa(1, 0.8, 1))
    for depth, labelled in ((0.2, ALL), (0.0, NO_DEPTH)):  # the average is over the steps that have labels
        balance.observe(torch.tensor([1.5, depth, 0.2]), labelled, labelled is NO_DEPTH)
    assert balance.factors().tolist() == pytest.approx(dwa(1, 0.5, 1))


def test_dynamic_averages_survive_a_checkpoint():
    balance, other = DynamicAverage(TASKS), DynamicAverage(TASKS)
    epoch(balance, [3.0, 0.5, 0.1])
    balance.observe(LOSSES, NO_DEPTH, False)
    other.load_state_dict(balance.state_dict())
    for each in (balance, other):
        epoch(each, [1.5, 0.5, 0.2])
    assert torch.equal(balance.factors(), other.factors()) and balance.factors()[0] != 1
