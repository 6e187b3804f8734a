"""What the benchmarks share: a random batch, a step as `edgemtl train` takes it, times in turns, memory."""

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgemtl.records.recipe import Recipe
from edgemtl.tasks import Task
from edgemtl.training.batches import labels, normalise, stack
from edgemtl.training.losses import losses

Batch = tuple[Tensor, dict[str, Tensor]]
Step = Callable[[], Any]
Name = TypeVar("Name")


def batch(recipe: Recipe, count: int) -> Batch:
    """Noise in the form that a step gives it to network and losses: an image (B, 3, H, W) and a label per task."""
    rng = np.random.default_rng(0)
    (h, w), stride = recipe.size, recipe.training.label_stride
    samples = []
    for _ in range(count):
        sample: dict[str, Any] = {"image": rng.integers(0, 256, (h, w, 3), np.uint8)}
        for name, task in recipe.tasks.items():
            sample[name] = _label(name, task, (h // stride, w // stride), rng)
        samples.append(sample)
    stacked = stack(samples)
    assert isinstance(stacked, dict)
    return normalise(stacked["image"]), labels(stacked, recipe.tasks)


def _label(name: str, task: Task, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    if name == "depth":
        return rng.uniform(0.5, 8, size).astype(np.float32)
    if name == "normals":
        normal = rng.normal(size=(*size, 3))
        return (normal / np.linalg.norm(normal, axis=2, keepdims=True)).astype(np.float32)
    return rng.integers(0, task.channels if name in ("semseg", "human_parts") else 2, size, np.uint8)


def step(recipe: Recipe, network: nn.Module, optimizer: torch.optim.Optimizer, fabric: Fabric, given: Batch) -> Step:
    """A training step on a batch, again and again: forward pass, losses, backward pass, optimizer."""
    model, stepper = fabric.setup(network.train(), optimizer)
    image, labels = given

    def run() -> None:
        found = losses(model(image), labels, recipe.tasks, recipe.training.losses)
        fabric.backward(torch.stack([recipe.training.weights[name] * found[name] for name in recipe.tasks]).sum())
        stepper.step()
        stepper.zero_grad()

    return run


class Times(NamedTuple):
    """By the clock, and of the processor (all threads), which other programs on the machine hardly change."""

    seconds: float
    processor: float


def in_turns(steps: Mapping[Name, Step], rounds: int) -> dict[Name, Times]:
    """The medians of each step, all measured one after the other in every round, so that a busy machine slows all."""
    found: dict[Name, list[Times]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, run in steps.items():
            begin = Times(time.perf_counter(), time.process_time())
            run()
            if number:  # the first round warms up
                found[name].append(Times(time.perf_counter() - begin[0], time.process_time() - begin[1]))
    return {name: Times(*map(statistics.median, zip(*times, strict=True))) for name, times in found.items()}


def saved(run: Step, weights: nn.Module | None = None) -> int:
    """The bytes that a run keeps for its backward pass, every storage once, the network's own weights left out."""
    own = {p.untyped_storage().data_ptr() for p in weights.parameters()} if weights else set()
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that its address stays its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in kept.values())


def growth(run: Step, times: int = 2) -> int:
    """By how many bytes a process that did nothing else before grows at most while it runs; on Linux."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the largest resident set so far
    before = _resident("VmRSS")
    for _ in range(times):
        run()
    return _resident("VmHWM") - before


def _resident(kind: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024


def options(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes, and an option for each default, of its type."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="of torch (its own choice)")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides a field of the recipe")
    parser.add_argument("--json", type=Path, help="writes the numbers to this file")
    for name, value in defaults.items():
        many = isinstance(value, tuple)
        kind = type(value[0] if many else value)
        parser.add_argument(f"--{name}", type=kind, nargs="+" if many else None, default=value, help=f"({value})")
    return parser


def begin(arguments: argparse.Namespace) -> None:
    """Sets the number of threads."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)


def write(path: Path | None, **found: Any) -> None:
    """The numbers with the machine they are from, as JSON, if there is a path."""
    if path:
        machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        path.write_text(json.dumps(machine | found, indent=1) + "\n", encoding="utf-8")
