"""Training a recipe's network: one function, one folder, resumable to the bit."""

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgemtl import show
from edgemtl.device.bench import peak_rss_mib
from edgemtl.device.evaluate import Scores
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.models import build
from edgemtl.networks import checkpoint, reference
from edgemtl.networks.backbones import synchronised
from edgemtl.recipe import Recipe
from edgemtl.run import Run
from edgemtl.samples import load
from edgemtl.stop import Stop, Stopped
from edgemtl.training import balance, journal
from edgemtl.training.batches import Lost, loader, tensors
from edgemtl.training.launch import Precision, launch
from edgemtl.training.losses import check_weights, count, losses
from edgemtl.training.schedule import average, optimizer, set_rate
from edgemtl.training.validate import merit, report, validate

LOG_EVERY = 20  # iterations
REHEARSED = 3  # steps of a dry run


def train(
    recipe: Recipe,
    *,
    run: Path | Run,
    data: Path | None = None,
    resume: bool = False,
    init: Path | None = None,
    precision: Precision = "32-true",
    accelerator: str = "auto",
    devices: int | str = "auto",
    nodes: int = 1,
    strategy: str = "auto",
    dry_run: bool = False,
) -> Scores:
    """The best validation's scores, task -> score -> value; their weights are in `run`/float.safetensors.

    Several processes (`devices`, `nodes`, torchrun's or `fabric run`'s flags) together see the batch that one would
    see. Losses are sums over a process' part divided by counts over the whole batch, so that losses and gradients are
    those of one process; the same holds for `training.accumulate`. What differs is BatchNorm: it takes the statistics
    of a micro-batch, on CUDA over all processes, on a CPU (torch has no such layer) over the process' own part.

    `init` names weights to start from in place of the backbone's: another run, its float.safetensors, or a checkpoint
    of the method's authors. With `resume` the run goes on after its last checkpoint, or begins if it has none; on a CPU
    it ends with the very weights of an undisturbed run. UsageError where the run, the data, the recipe or the weights
    do not allow it. CheckFailed where a loss or the gradient is not finite, and where SIGINT or SIGTERM asked to stop:
    the state is saved first.

    `dry_run` takes a few steps, prints what all of them would take in time and memory, and writes nothing.
    """
    run = Run(run)
    init = Run(init).weights("float") if init and init.is_dir() else init
    _check(run, recipe, resume, init)
    samples = {split: load(recipe.data, data, split, recipe.tasks) for split in ("train", "val")}
    fabric = launch(precision, accelerator, devices, nodes, strategy)
    with Stop() as stop, TemporaryDirectory() as nowhere:
        training = _Training(recipe, Run(nowhere) if dry_run else run, fabric, samples, stop, resume, init)
        training.begin()
        try:
            training.rehearse() if dry_run else training.finish()
        finally:
            training.close()
    return training.state.best_scores


@dataclass
class _State:
    """Where a run is, beside its tensors."""

    iteration: int = 0  # finished optimizer steps
    validated: int = 0  # the iteration of the last validation
    best_merit: float | None = None
    best_scores: Scores = field(default_factory=dict)


class _Training:
    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        fabric: Fabric,
        samples: dict[str, Any],
        stop: Stop,
        resume: bool,
        init: Path | None,
    ) -> None:
        self.recipe, self.options, self.run = recipe, recipe.training, run
        self.fabric, self.samples, self.stop = fabric, samples, stop
        self.last = run.state if resume and run.state.is_file() else None
        self.init = init
        torch.manual_seed(self.options.seed)
        self.network: nn.Module = build(recipe.network.blank() if self.last or init else recipe.network, recipe.tasks)
        if init and not self.last:
            reference.load(self.network, recipe, init)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False) if self.options.ema else None
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            self.network = synchronised(self.network)
        self.balance = balance.BY_NAME[self.options.balance](recipe.tasks).to(fabric.device)
        self.optimizer = optimizer(self.network, self.options, self.balance)
        self.model, self.stepper = fabric.setup(self.network, self.optimizer)
        if self.average is not None:
            self.average.to(fabric.device)
        self.weights = torch.tensor([self.options.weights[name] for name in recipe.tasks], device=fabric.device)
        self.state = _State()
        self.saved = 0  # the iteration that the last checkpoint holds; 0: there is none
        self.journal: journal.Journal | None = None  # the first process' only
        self.interval = journal.Interval()
        self.bar = show.progress()

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything that a checkpoint holds beside the optimizer."""
        held = {"model": self.network, "balance": self.balance}
        return held if self.average is None else held | {"average": self.average}

    def begin(self) -> None:
        """Takes the state of the last checkpoint, if there is one, and opens data, journal and display."""
        if self.last:
            held, about = checkpoint.load(self.last)
            try:
                self.state = _State(**about["state"])
            except (KeyError, TypeError):
                raise UsageError(
                    f"{self.last} holds no training state that this version of edgemtl can continue"
                ) from None
            checkpoint.unpack(held, self.last, self.modules, self.optimizer)
            self.fabric.strategy.precision.load_state_dict(about["scaler"])
            self.saved = self.state.iteration
        fabric, done = self.fabric, self.state.iteration
        pin = fabric.device.type == "cuda"
        self.batches = loader(
            self.samples["train"],
            self.recipe,
            done,
            rank=fabric.global_rank,
            processes=fabric.world_size,
            pin=pin,
            stop=self.stop,
        )
        if fabric.is_global_zero:
            for leftover in self.run.folder.glob(".*.part*"):  # of a process killed while it wrote
                leftover.unlink()
            if not self.saved:
                journal.begin(self.run, self.recipe, self.init)
            self.journal = journal.Journal(self.run, done, self.state.validated)
        self.task = self.bar.add_task(self.recipe.name, total=self.options.iterations, completed=done, status="")

    def finish(self) -> None:
        """Steps, logs, saves and validates up to the recipe's last iteration."""
        state, options = self.state, self.options
        self._show(True)
        while True:
            done = state.iteration == options.iterations
            if state.validated < state.iteration and (done or state.iteration % options.validate_every == 0):
                self._save()
                self._validate()
                self._save()
            elif self.saved < state.iteration and state.iteration % options.save_every == 0:
                self._save()
            if done:
                return
            if self._step():
                self._stopped()
            if state.iteration % LOG_EVERY == 0:
                self._log()

    def rehearse(self) -> None:
        """Takes a few steps and prints what the whole run would take; validations come on top."""
        seconds = []
        for _ in range(REHEARSED):
            begin = time.perf_counter()
            if self._step():
                self._stopped()
            if self.fabric.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
        each = min(seconds[1:])  # the first one sets up what later ones reuse
        epochs = self.options.iterations * self.options.batch / len(self.samples["train"])
        hours, minutes = divmod(round(self.options.iterations * each / 60), 60)
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        rows = [
            ("frames", f"{len(self.samples['train'])} to train on, {len(self.samples['val'])} to validate"),
            ("parameters", f"{parameters / 1e6:.2f} million"),
            ("a step", f"{each:.2f} s for {self.options.batch} frames on {self.fabric.device}"),
            ("steps", f"{self.options.iterations}, {epochs:.1f} epochs"),
            ("all steps", f"{hours} h {minutes} min, validations on top"),
            ("memory", f"{_peak(self.fabric.device) / 2**30:.1f} GiB"),
        ]
        if self.fabric.is_global_zero:
            show.table(f"{self.recipe.name}: {REHEARSED} steps taken, nothing written", ("what", "value"), rows, left=2)

    def close(self) -> None:
        """Ends the display and the loader's processes, and flushes the journal."""
        self._show(False)
        self.batches.close()
        if self.journal:
            self.journal.close()

    def _step(self) -> bool:
        """One optimizer step; True if any process was asked to stop."""
        state, options, fabric, tasks = self.state, self.options, self.fabric, self.recipe.tasks
        seed = np.random.SeedSequence([options.seed, state.iteration, fabric.global_rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))  # for drop path and the like
        self.model.train()
        set_rate(self.optimizer, options, state.iteration)
        begin = time.perf_counter()
        try:
            batches = [next(self.batches) for _ in range(options.accumulate)]
        except Stopped:
            self._stopped()
        except Lost as lost:
            self._stopped(f"{lost}: ", " (without such processes where --set training.workers=0 is added)")
        self.interval.waited += time.perf_counter() - begin
        parts = [tensors(fabric.to_device(batch), tasks) for batch in batches]
        counts = fabric.all_reduce(torch.stack([count(labels, tasks) for _, labels in parts]).sum(0), reduce_op="sum")
        assert isinstance(counts, Tensor)
        weights = self.weights * self.balance.factors()
        found = torch.zeros(len(tasks), device=fabric.device)
        for number, (image, labels) in enumerate(parts, 1):
            with fabric.no_backward_sync(self.model, enabled=number < len(parts)):
                each = losses(self.model(image), labels, tasks, options.losses, counts)
                terms = torch.stack([each[name] for name in tasks])
                # Losses of parts add up; only DDP takes the mean of its processes' gradients.
                fabric.backward((weights * terms).sum() * fabric.world_size)
            found += terms.detach()
        asked = torch.tensor([float(self.stop.asked)], device=fabric.device)
        reduced = fabric.all_reduce(torch.cat([found, asked]), reduce_op="sum")
        assert isinstance(reduced, Tensor)
        found, stopping = reduced[:-1], bool(reduced[-1] > 0)
        self._check_finite(found)
        labelled = counts[:, 1] > 0
        objective = self.balance.objective(self.weights, found, labelled)
        if objective is not None:
            fabric.backward(objective)
        read = [(state.iteration + step) * options.batch // len(self.samples["train"]) for step in (0, 1)]  # epochs
        self.balance.observe(found, labelled, ends_epoch=read[1] > read[0])
        self.stepper.step()
        self.stepper.zero_grad()
        if self.average is not None:
            average(self.average, self.network, options.ema, state.iteration)
        state.iteration += 1
        self.interval.losses.append(torch.where(labelled, found, torch.nan).cpu())
        self.bar.advance(self.task)
        return stopping

    def _check_finite(self, found: Tensor) -> None:
        named = zip(self.recipe.tasks, found.tolist(), strict=True)
        bad = [f"the {name} loss is {value}" for name, value in named if not np.isfinite(value)]
        if not bad and self.fabric.strategy.precision.precision != "16-mixed":  # whose scaler skips such steps itself
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
            bad = [] if torch.isfinite(norm) else [f"the gradient's norm is {norm.item()}"]
        if bad:
            kept = f"{self.run.state} keeps iteration {self.saved}" if self.saved else "nothing was saved yet"
            raise CheckFailed(f"{bad[0]} in iteration {self.state.iteration + 1}; {kept}; try a lower training.rate")

    def _log(self) -> None:
        iteration, total = self.state.iteration, self.options.iterations
        if self.journal and self.interval.losses:
            weights = dict(zip(self.recipe.tasks, (self.weights * self.balance.factors()).tolist(), strict=True))
            record = self.interval.record(weights)
            if self.options.balance != "fixed":
                record["weight"] = weights
            epoch = iteration * self.options.batch / len(self.samples["train"])
            rate = self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["factor"]
            self.journal.write(iteration, epoch=epoch, rate=rate, **record)
            status = " ".join(f"{name} {value:.3g}" for name, value in record["loss"].items())
            self.bar.update(self.task, status=status)
            if not show.err.is_terminal:
                left = record["seconds_per_step"] * (total - iteration) / 60
                show.err.print(f"{self.recipe.name} {iteration}/{total}, {left:.0f} min left: {status}", soft_wrap=True)
        self.interval = journal.Interval()

    def _save(self) -> None:
        self._log()  # so that no line of the journal spans a checkpoint
        if self.fabric.is_global_zero:
            held = checkpoint.pack(self.modules, self.optimizer)
            scaler = self.fabric.strategy.precision.state_dict()
            about = {"recipe": self.recipe.name, "state": vars(self.state), "scaler": scaler}
            checkpoint.save(self.run.state, held, about)
        self.saved = self.state.iteration

    def _validate(self) -> None:
        state, tasks = self.state, self.recipe.tasks
        network = self.network if self.average is None else self.average
        self._show(False)
        try:
            scores = validate(network, self.samples["val"], self.recipe, self.fabric, self.stop)
        except Stopped:
            self._stopped()
        state.validated, value = state.iteration, merit(scores, tasks)
        better = state.best_merit is None or value > state.best_merit
        if better:
            state.best_merit, state.best_scores = value, scores
        if self.journal:
            report(f"{self.recipe.name}, iteration {state.iteration}", scores, state.best_scores, tasks)
            if better:
                about = {"recipe": self.recipe.name, "iteration": state.iteration, "scores": scores}
                checkpoint.save(self.run.weights("float"), network.state_dict(), about)
            self.journal.write(state.iteration, scores=scores, best=better)
        self._show(True)
        self.interval = journal.Interval()

    def _stopped(self, why: str = "", how: str = "") -> NoReturn:
        done = self.state.iteration
        if done:
            self._save()
        saved = f"saved as {self.run.state}" if done else "so nothing was saved"
        raise CheckFailed(
            f"{why}stopped after iteration {done} of {self.options.iterations}, {saved}; the same command with --resume"
            f" goes on{how}"
        )

    def _show(self, on: bool) -> None:
        if self.fabric.is_global_zero and show.err.is_terminal:
            self.bar.start() if on else self.bar.stop()


def _check(run: Run, recipe: Recipe, resume: bool, init: Path | None) -> None:
    check_weights(recipe)
    if resume and run.exists:
        journal.check_same(run, recipe)
        begun = run.about.get("init")
        if begun and not init and not run.state.is_file():
            raise UsageError(f"{run} was begun with --init {begun['path']} and saved nothing yet; give --init again")
    for file in (run.state, run.weights("float")):
        if not resume and file.exists():
            raise UsageError(f"{run} already holds {file.name}; go on with --resume or choose another --run")


def _peak(device: torch.device) -> int:
    """The most bytes that were in use so far: of the GPU, else of this process without those that read samples."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return round(peak_rss_mib() * 2**20)
