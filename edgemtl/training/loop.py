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

from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.stop import Stop, Stopped
from edgemtl.networks import checkpoint
from edgemtl.networks.backbones import synchronised
from edgemtl.records.recipe import Recipe
from edgemtl.training import balance
from edgemtl.training.batches import Lost, labels, loader
from edgemtl.training.journal import Interval, Journal
from edgemtl.training.losses import count_pixels, losses
from edgemtl.training.recompute import recompute
from edgemtl.training.schedule import average, optimizer, set_rate

LOG_EVERY = 20  # iterations

Raw = Mapping[str, Tensor | Sequence[Tensor]]
# From the network, and uint8 frames (B, H, W, 3): its raw outputs, and a loss beside those against the labels, or None.
Forward = Callable[[nn.Module, Tensor], tuple[Raw, Tensor | None]]


@dataclass
class Progress:
    """How far a loop is; its tensors are not here."""

    iteration: int = 0  # finished optimizer steps
    validated: int = 0  # the iteration of the last validation


Kind = TypeVar("Kind", bound=Progress)


@dataclass(frozen=True)
class Books:
    """The files of a loop, and its name in messages."""

    state: Path  # all that it needs to go on
    metrics: Path
    tensorboard: Path
    name: str  # on the display
    of: str = ""  # after "iteration 3 of 400"
    options: str = "training"  # of the recipe: where its learning rate stands
    about: dict[str, Any] = field(default_factory=dict)  # what the state says of itself, beside the progress


class Loop(Generic[Kind]):
    """Takes the steps that recipe.training states; with `resume`, from the saved state on, if there is one.

    Use it in a `with` and iterate over `steps`. It trains the network in place, on fabric's device.
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
        books: Books,
        progress: Kind,
        resume: bool,
    ) -> None:
        self.recipe, self.options, self.forward, self.samples = recipe, recipe.training, forward, samples
        self.fabric, self.stop, self.books, self.progress = fabric, stop, books, progress
        self.average = copy.deepcopy(network).requires_grad_(False) if self.options.ema else None
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            network = synchronised(network)
        self.network = network
        if self.options.recompute:
            recompute(network, fabric.strategy.precision.forward_context)
        self.balance = balance.BY_NAME[self.options.balance](recipe.tasks).to(fabric.device)
        self.optimizer = optimizer(network, self.options, self.balance)
        self.model, self.stepper = fabric.setup(network, self.optimizer)
        if self.average is not None:
            self.average.to(fabric.device)
        self.weights = torch.tensor([self.options.weights[name] for name in recipe.tasks], device=fabric.device)
        self.saved: int | None = None  # the iteration that the state in `books` holds; None: there is none
        if resume and books.state.is_file():
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
            books.name, total=self.options.iterations, completed=self.progress.iteration, status=""
        )

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules whose tensors the state holds, beside the optimizer's."""
        modules = {"model": self.network, "balance": self.balance}
        return modules if self.average is None else modules | {"average": self.average}

    def _load(self) -> None:
        tensors, about = checkpoint.load(self.books.state)
        try:
            self.progress = type(self.progress)(**about["state"])
        except (KeyError, TypeError):
            raise UsageError(
                f"{self.books.state} holds no training state that this version of edgemtl can continue"
            ) from None
        checkpoint.unpack(tensors, self.books.state, self.modules, self.optimizer)
        self.fabric.strategy.precision.load_state_dict(about["scaler"])
        self.saved = self.progress.iteration

    def __enter__(self) -> "Loop[Kind]":
        if self.fabric.is_global_zero:
            for leftover in self.books.state.parent.glob(".*.part.*"):  # of a process killed while it wrote
                leftover.unlink()
            books, progress = self.books, self.progress
            self.journal = Journal(books.metrics, books.tensorboard, progress.iteration, progress.validated)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the display and the loader's processes, and flushes the journal."""
        self.show(False)
        self.batches.close()
        if self.journal:
            self.journal.close()

    def steps(self) -> Iterator[int]:
        """Takes the remaining steps; yields the number of finished steps before each one, and after the last.

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
        """Takes one optimizer step; True if somebody asked to stop. CheckFailed for a loss that is not finite."""
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
        counts = fabric.all_reduce(torch.stack([count_pixels(goal, tasks) for goal in goals]).sum(0), reduce_op="sum")
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
        request = torch.tensor([float(self.stop.asked)], device=fabric.device)
        reduced = fabric.all_reduce(torch.cat([sums, request]), reduce_op="sum")
        assert isinstance(reduced, Tensor)
        sums, stopping = reduced[:-1], bool(reduced[-1] > 0)
        self._check_finite(sums)
        labelled = counts[:, 1] > 0
        objective = self.balance.objective(self.weights, sums, labelled)
        if objective is not None:
            fabric.backward(objective)
        epochs = [(progress.iteration + step) * options.batch // len(self.samples) for step in (0, 1)]  # epochs
        self.balance.observe(sums, labelled, ends_epoch=epochs[1] > epochs[0])
        self.stepper.step()
        self.stepper.zero_grad()
        if self.average is not None:
            average(self.average, self.network, options.ema, progress.iteration)
        progress.iteration += 1
        self.interval.losses.append(torch.where(labelled, sums, torch.nan).cpu())
        self.bar.advance(self.task)
        return stopping

    def _check_finite(self, sums: Tensor) -> None:
        values = zip(self.recipe.tasks, sums.tolist(), strict=True)
        bad = [f"the {name} loss is {value}" for name, value in values if not np.isfinite(value)]
        if not bad and self.fabric.strategy.precision.precision != "16-mixed":  # whose scaler skips such steps itself
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
            bad = [] if torch.isfinite(norm) else [f"the gradient's norm is {norm.item()}"]
        if bad:
            books, saved = self.books, self.saved
            state = "nothing was saved yet" if saved is None else f"{books.state} keeps iteration {saved}"
            raise CheckFailed(
                f"{bad[0]} in iteration {self.progress.iteration + 1}{books.of}; {state}; try a lower"
                f" {books.options}.rate"
            )

    def log(self) -> None:
        """Writes a line of the journal about the steps since the last line, and shows how long the rest takes."""
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
                show.err.print(f"{self.books.name} {iteration}/{total}, {left:.0f} min left: {status}", soft_wrap=True)
        self.interval = Interval()

    def save(self) -> None:
        """Writes all that is needed to go on from here."""
        self.log()  # so that no line of the journal spans a checkpoint
        if self.fabric.is_global_zero:
            tensors = checkpoint.pack(self.modules, self.optimizer)
            scaler = self.fabric.strategy.precision.state_dict()
            about = self.books.about | {"state": vars(self.progress), "scaler": scaler}
            checkpoint.save(self.books.state, tensors, about)
        self.saved = self.progress.iteration

    def stopped(self, why: str = "", how: str = "") -> NoReturn:
        """Saves the state and raises a CheckFailed that says how to go on."""
        iteration, books = self.progress.iteration, self.books
        if iteration:
            self.save()
        saved = "so nothing was saved" if self.saved is None else f"saved as {books.state}"
        raise CheckFailed(
            f"{why}stopped after iteration {iteration} of {self.options.iterations}{books.of}, {saved}; the same"
            f" command with --resume goes on{how}"
        )

    def show(self, on: bool) -> None:
        """Shows or hides the progress bar."""
        if self.fabric.is_global_zero and show.err.is_terminal:
            self.bar.start() if on else self.bar.stop()
