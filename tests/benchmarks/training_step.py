"""A training step of DeMT with HRNet18-S: edgemtl's beside a plain eager implementation of the same network.

python tests/benchmarks/training_step.py [--recipe NAME] [--set size=[425,560]] [--batch N] [--rounds N]

Both get the same weights, batch, losses and kind of optimizer; their outputs are compared first. The plain one is run
with three ways to sample: torch's grid_sample, four gathers, and torchvision's operator where it is installed and
works. A recipe whose network is no DeMT as published is measured alone, in float32 and bfloat16.
"""

import argparse
import subprocess
import sys

import measure
import torch
from lightning_fabric import Fabric
from plain_demt import Operator, by_gather, by_grid_sample, by_torchvision, plain
from torch import nn

from edgemtl import models
from edgemtl.ground import show
from edgemtl.models.demt import DeMT
from edgemtl.networks.backbones import Backbone
from edgemtl.records import recipe
from edgemtl.records.recipe import Recipe
from edgemtl.training.launch import launch
from edgemtl.training.recompute import recompute
from edgemtl.training.schedule import optimizer

TOLERANCE = 1e-4  # of an output's standard deviation
OURS = {"edgemtl": "32-true", "edgemtl, recompute": "32-true", "edgemtl, bf16-mixed": "bf16-mixed"}
PUBLISHED = {"width"}  # options of a DeMT that leave it the published network


PLAIN: dict[str, Operator] = {
    "plain, grid_sample": by_grid_sample, "plain, gather": by_gather, "plain, torchvision": by_torchvision,
}  # fmt: skip


def main() -> None:
    parser = measure.options(__doc__, recipe="nyud_demt_hrnet18", batch=2, rounds=5)
    parser.add_argument("--no-memory", action="store_true", help="leaves out the two columns that take fresh processes")
    parser.add_argument("--only", help="measures the memory of one of the rows in this process")
    arguments = parser.parse_args()
    measure.begin(arguments)
    chosen = recipe.load(arguments.recipe, ["network.pretrained=false", *arguments.set])
    if arguments.only:
        step, network = made(chosen, arguments.only, arguments.batch)
        print(measure.growth(step), measure.saved(step, network))
        return

    published = chosen.network.method == "demt" and set(chosen.network.options) <= PUBLISHED
    names = [*OURS, *(name for name, operator in PLAIN.items() if published and _works(operator))]
    if published:
        check(chosen, [name for name in names if name in PLAIN])
    times = measure.in_turns({name: made(chosen, name, arguments.batch)[0] for name in names}, arguments.rounds)
    memory = {} if arguments.no_memory else {name: _memory(arguments, name) for name in names}
    first = names[0]
    rows = [
        (name, *each, each[0] / times[first][0], each[1] / times[first][1], *(n >> 20 for n in memory.get(name, ())))
        for name, each in times.items()
    ]
    size = "x".join(map(str, chosen.size))
    header = ["a training step", "seconds", "processor s", "seconds / first", "processor s / first"]
    header += ["MiB it grows by", "MiB kept for backward"] if memory else []
    show.table(
        f"{chosen.name} at {size}, batch {arguments.batch}, {torch.get_num_threads()} threads",
        header,
        rows,
    )
    found = {name: [*each, *memory.get(name, ())] for name, each in times.items()}  # seconds, seconds, bytes, bytes
    measure.write(arguments.json, recipe=chosen.name, size=chosen.size, batch=arguments.batch, steps=found)


def made(chosen: Recipe, name: str, count: int) -> tuple[measure.Step, nn.Module]:
    """The step of one row and its network."""
    network = _network(chosen)
    if name in OURS:
        fabric = launch(OURS[name], "cpu", 1, 1, "auto")
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if name == "edgemtl, recompute":
            recompute(network, fabric.strategy.precision.forward_context)
        return measure.step(
            chosen, network, optimizer(network, chosen.training), fabric, measure.batch(chosen, count)
        ), network
    training = chosen.training
    other = _plain(chosen, network, PLAIN[name])
    simple = torch.optim.SGD(other.parameters(), training.rate, training.momentum, weight_decay=training.weight_decay)
    image, labels = measure.batch(chosen, count)
    given = image.contiguous(), {name: label.contiguous() for name, label in labels.items()}
    return measure.step(chosen, other, simple, Fabric(accelerator="cpu"), given), other


def check(chosen: Recipe, names: list[str]) -> None:
    """Prints how far the plain networks' outputs are from ours; AssertionError where they are another network's."""
    network = _network(chosen).train()
    image, _ = measure.batch(chosen, 1)
    with torch.no_grad():
        wanted = network(image)
        for name in names:
            found = _plain(chosen, network, PLAIN[name]).train()(image)
            apart = max(float((found[task] - raw).abs().max() / raw.std()) for task, raw in wanted.items())
            print(f"{name}: outputs are at most {apart:.1e} standard deviations from edgemtl's")
            assert apart < TOLERANCE


def _network(chosen: Recipe) -> nn.Module:
    torch.manual_seed(0)
    return models.build(chosen.network, chosen.tasks)


def _plain(chosen: Recipe, network: nn.Module, operator: Operator) -> nn.Module:
    assert isinstance(network, DeMT)
    outputs = {name: task.channels for name, task in chosen.tasks.items()}
    return plain(network, outputs, Backbone(chosen.network.backbone), operator)


def _works(operator: Operator) -> bool:
    try:
        operator(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3), torch.zeros(2, 2, 1, 1), torch.zeros(2))
    except (ImportError, RuntimeError, AttributeError, NotImplementedError):
        return False
    return True


def _memory(arguments: argparse.Namespace, name: str) -> tuple[int, int]:
    """Bytes by which a fresh process' resident set grows at most, and bytes kept for the backward pass."""
    command = [sys.executable, *sys.argv, "--only", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grown, kept = map(int, output.split()[-2:])
    return grown, kept


if __name__ == "__main__":
    main()
