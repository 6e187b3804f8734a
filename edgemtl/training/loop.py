"""Optimizer steps of training and of fine-tuning, one after the other: shown, written down, resumed to the bit."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgemtl import show
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.networks import checkpoint
from edgemtl.networks.backbones import synchronised
from edgemtl.recipe import Recipe
from edgemtl.stop import Stop, Stopped
from edgemtl.training import balance
from edgemtl.training.batches import Lost, labels, loader
from edgemtl.training.journal import Interval, Journal
from edgemtl.training.losses import count, losses
from edgemtl.training.schedule import average, optimizer, set_rate

LOG_EVERY = 20  # iterations

Raw = Mapping[str, Tensor | Sequence[Tensor]]
# From the network, and uint8 frames (B, H, W, 3): its raw outputs, and a loss beside those against the labels, or None.
Forward = Callable[[nn.Module, Tensor], tuple[Raw, Tensor | None]]


@dataclass
class Progress:
    """Where a loop is, beside its tensors."""

    iteration: int = 0  # finished optimizer steps
    validated: int = 0  # the iteration of the last validation


Kind = TypeVar("Kind", bound=Progress)


@dataclass(frozen=True)
class Place:
    """Where a loop is written down, and what it is called."""

    state: Path  # all that it needs to go on
    metrics: Path
    tensorboard: Path
    name: str  # on the display
    of: str = ""  # after "iteration 3 of 400"
    options: str = "training"  # of the recipe: where its learning rate stands
    about: dict[str, Any] = field(default_factory=dict)  # what the state says of itself, beside the progress


class Loop(Generic[Kind]):
    """The steps that recipe.training states, from the state in `place` on if `resume` and there is one.

    Enter it, and take `steps`. The network is trained in place, on fabric's device.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        forward: Forward,
        samples: Any,
        *,
        fabric: Fabric,
        stop: Stop,
        place: Place,
        progress: Kind,
        resume: bool,
    ) -> None:
        self.recipe, self.options, self.forward, self.samples = recipe, recipe.training, forward, samples
        self.fabric, self.stop, self.place, self.progress = fabric, stop, place, progress
        self.average = copy.deepcopy(network).requires_grad_(False) if self.options.ema else None
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            network = synchronised(network)
        self.network = network
        self.balance = balance.BY_NAME[self.options.balance](recipe.tasks).to(fabric.device)
        self.optimizer = optimizer(network, self.options, self.balance)
        self.model, self.stepper = fabric.setup(network, self.optimizer)
        if self.average is not None:
            self.average.to(fabric.device)
        self.weights = torch.tensor([self.options.weights[name] for name in recipe.tasks], device=fabric.device)
        self.saved: int | None = None  # the iteration that the state in `place` holds; None: there is none
        if resume and place.state.is_file():
            self._load()
        self.batches = loader(
            samples,
            recipe,
            self.progress.iteration,
            rank=fabric.global_rank,
            processes=fabric.world_size,
            pin=fabric.device.type == "cuda",
            stop=stop,
        )
        self.journal: Journal | None = None  # the first process' only
        self.interval = Interval()
        self.bar = show.progress()
        self.task = self.bar.add_task(
            place.name, total=self.options.iterations, completed=self.progress.iteration, status=""
        )

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything that the state holds beside the optimizer."""
        held = {"model": self.network, "balance": self.balance}
        return held if self.average is None else held | {"average": self.average}

    def _load(self) -> None:
        held, about = checkpoint.load(self.place.state)
        try:
            self.progress = type(self.progress)(**about["state"])
        except (KeyError, TypeError):
            raise UsageError(
                f"{self.place.state} holds no training state that this version of edgemtl can continue"
            ) from None
        checkpoint.unpack(held, self.place.state, self.modules, self.optimizer)
        self.fabric.strategy.precision.load_state_dict(about["scaler"])
        self.saved = self.progress.iteration

    def __enter__(self) -> "Loop[Kind]":
        if self.fabric.is_global_zero:
            for leftover in self.place.state.parent.glob(".*.part.*"):  # of a process killed while it wrote
                leftover.unlink()
            place, progress = self.place, self.progress
            self.journal = Journal(place.metrics, place.tensorboard, progress.iteration, progress.validated)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the display and the loader's processes, and flushes the journal."""
        self.show(False)
        self.batches.close()
        if self.journal:
            self.journal.close()

    def steps(self) -> Iterator[int]:
        """Takes the steps that are left; gives the number of finished ones before each of them, and after the last.

        Saves every `save_every` steps. CheckFailed as for `step`, and where SIGINT or SIGTERM asked to stop: the state
        is saved first.
        """
        self.show(True)
        while True:
            iteration = self.progress.iteration
            yield iteration
            if iteration == self.options.iterations:
                return
            if iteration % self.options.save_every == 0 and iteration and self.saved != iteration:
                self.save()
            if self.step():
                self.stopped()
            if self.progress.iteration % LOG_EVERY == 0:
                self.log()

    def step(self) -> bool:
        """One optimizer step; True if any process was asked to stop. CheckFailed where something is not finite."""
        progress, options, fabric, tasks = self.progress, self.options, self.fabric, self.recipe.tasks
        seed = np.random.SeedSequence([options.seed, progress.iteration, fabric.global_rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))  # for drop path and the like
        set_rate(self.optimizer, options, progress.iteration)
        begin = time.perf_counter()
        try:
            parts = [fabric.to_device(next(self.batches)) for _ in range(options.accumulate)]
        except Stopped:
            self.stopped()
        except Lost as lost:
            self.stopped(f"{lost}: ", " (without such processes where --set training.workers=0 is added)")
        self.interval.waited += time.perf_counter() - begin
        goals = [labels(part, tasks) for part in parts]
        counts = fabric.all_reduce(torch.stack([count(goal, tasks) for goal in goals]).sum(0), reduce_op="sum")
        assert isinstance(counts, Tensor)
        weights = self.weights * self.balance.factors()
        sums = torch.zeros(len(tasks), device=fabric.device)
        for number, (part, goal) in enumerate(zip(parts, goals), 1):
            with fabric.no_backward_sync(self.model, enabled=number < len(parts)):
                raw, beside = self.forward(self.model, part["image"])
                each = losses(raw, goal, tasks, options.losses, counts)
                terms = torch.stack([each[name] for name in tasks])
                total = (weights * terms).sum()
                # Losses of parts add up; only DDP takes the mean of its processes' gradients.
                fabric.backward((total if beside is None else total + beside) * fabric.world_size)
            sums += terms.detach()
        asked = torch.tensor([float(self.stop.asked)], device=fabric.device)
        reduced = fabric.all_reduce(torch.cat([sums, asked]), reduce_op="sum")
        assert isinstance(reduced, Tensor)
        sums, stopping = reduced[:-1], bool(reduced[-1] > 0)
        self._check_finite(sums)
        labelled = counts[:, 1] > 0
        objective = self.balance.objective(self.weights, sums, labelled)
        if objective is not None:
            fabric.backward(objective)
        read = [(progress.iteration + step) * options.batch // len(self.samples) for step in (0, 1)]  # epochs
        self.balance.observe(sums, labelled, ends_epoch=read[1] > read[0])
        self.stepper.step()
        self.stepper.zero_grad()
        if self.average is not None:
            average(self.average, self.network, options.ema, progress.iteration)
        progress.iteration += 1
        self.interval.losses.append(torch.where(labelled, sums, torch.nan).cpu())
        self.bar.advance(self.task)
        return stopping

    def _check_finite(self, sums: Tensor) -> None:
        named = zip(self.recipe.tasks, sums.tolist(), strict=True)
        bad = [f"the {name} loss is {value}" for name, value in named if not np.isfinite(value)]
        if not bad and self.fabric.strategy.precision.precision != "16-mixed":  # whose scaler skips such steps itself
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
            bad = [] if torch.isfinite(norm) else [f"the gradient's norm is {norm.item()}"]
        if bad:
            place, saved = self.place, self.saved
            kept = "nothing was saved yet" if saved is None else f"{place.state} keeps iteration {saved}"
            raise CheckFailed(
                f"{bad[0]} in iteration {self.progress.iteration + 1}{place.of}; {kept}; try a lower"
                f" {place.options}.rate"
            )

    def log(self) -> None:
        """Writes a line of the journal about the steps since the last one, and tells how long the rest takes."""
        iteration, total = self.progress.iteration, self.options.iterations
        if self.journal and self.interval.losses:
            weights = dict(zip(self.recipe.tasks, (self.weights * self.balance.factors()).tolist(), strict=True))
            record = self.interval.record(weights)
            if self.options.balance != "fixed":
                record["weight"] = weights
            epoch = iteration * self.options.batch / len(self.samples)
            rate = self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["factor"]
            self.journal.write(iteration, epoch=epoch, rate=rate, **record)
            status = " ".join(f"{name} {value:.3g}" for name, value in record["loss"].items())
            self.bar.update(self.task, status=status)
            if not show.err.is_terminal:
                left = record["seconds_per_step"] * (total - iteration) / 60
                show.err.print(f"{self.place.name} {iteration}/{total}, {left:.0f} min left: {status}", soft_wrap=True)
        self.interval = Interval()

    def save(self) -> None:
        """Writes all that is needed to go on from here."""
        self.log()  # so that no line of the journal spans a checkpoint
        if self.fabric.is_global_zero:
            held = checkpoint.pack(self.modules, self.optimizer)
            scaler = self.fabric.strategy.precision.state_dict()
            about = self.place.about | {"state": vars(self.progress), "scaler": scaler}
            checkpoint.save(self.place.state, held, about)
        self.saved = self.progress.iteration

    def stopped(self, why: str = "", how: str = "") -> NoReturn:
        """Saves what is done; CheckFailed that says so."""
        done, place = self.progress.iteration, self.place
        if done:
            self.save()
        saved = "so nothing was saved" if self.saved is None else f"saved as {place.state}"
        raise CheckFailed(
            f"{why}stopped after iteration {done} of {self.options.iterations}{place.of}, {saved}; the same command"
            f" with --resume goes on{how}"
        )

    def show(self, on: bool) -> None:
        """Shows the progress bar, or takes it away."""
        if self.fabric.is_global_zero and show.err.is_terminal:
            self.bar.start() if on else self.bar.stop()
