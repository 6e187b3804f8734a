"""Training a recipe's network: one function, one folder, resumable to the bit."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgemtl.device.bench import peak_rss_mib
from edgemtl.device.evaluate import Scores
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.stop import Stop, Stopped
from edgemtl.models import build
from edgemtl.networks import checkpoint, reference
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run
from edgemtl.records.samples import load_samples
from edgemtl.training import journal
from edgemtl.training.batches import normalise
from edgemtl.training.launch import Precision, launch
from edgemtl.training.loop import Books, Forward, Loop, Progress
from edgemtl.training.losses import check_weights
from edgemtl.training.teacher import Teachers, distances, load_teacher
from edgemtl.training.unlabelled import WithUnlabelled
from edgemtl.training.validate import merit, show_scores, validate

REHEARSED = 3  # steps of a dry run


def train(
    recipe: Recipe,
    *,
    run: Path | Run,
    data: Path | None = None,
    resume: bool = False,
    init: Path | None = None,
    teacher: str | Path | Sequence[str | Path] = (),
    unlabelled: Path | None = None,
    precision: Precision = "32-true",
    accelerator: str = "auto",
    devices: int | str = "auto",
    nodes: int = 1,
    strategy: str = "auto",
    dry_run: bool = False,
) -> Scores:
    """The best validation's scores, task -> score -> value; their weights are in `run`/float.safetensors.

    Several processes (`devices`, `nodes`, torchrun's or `fabric run`'s flags) together see the batch that one process
    would see. A loss is a sum over a process' part, divided by a count over the whole batch, so that losses and
    gradients are those of one process. The same holds for `training.accumulate`. Only BatchNorm differs: it takes the
    statistics of a micro-batch, on CUDA over all processes, on a CPU (where torch has no such layer) over each one's.

    `init` names weights to start from in place of the backbone's: another run, its float.safetensors, or a checkpoint
    of the method's authors. With `resume` the run goes on after its last checkpoint, or begins if it has none; on a CPU
    it ends with the very weights of an undisturbed run. UsageError where the run, the data, the recipe or the weights
    do not allow it. CheckFailed where a loss or the gradient is not finite, and where SIGINT or SIGTERM asked to stop:
    the state is saved first.

    One `teacher` or several, see `edgemtl.training.teacher`, are learned from beside the labels; the mean of their raw
    outputs counts `training.teacher` times as much as they. On the pictures of the folder `unlabelled`, each drawn as
    often as a training frame, they alone have something to say.

    `dry_run` takes a few steps, prints what all of them would take in time and memory, and writes nothing.
    """
    run = Run(run)
    init = Run(init).weights("float") if init and init.is_dir() else init
    _check(run, recipe, resume, init)
    samples: dict[str, Any] = {
        split: load_samples(recipe.data, data, split, recipe.tasks) for split in ("train", "val")
    }
    if unlabelled and not teacher:
        raise UsageError("--unlabelled needs a --teacher: without labels there is nothing else to learn")
    if unlabelled:
        samples["train"] = WithUnlabelled(samples["train"], unlabelled)
    fabric = launch(precision, accelerator, devices, nodes, strategy)
    named = [teacher] if isinstance(teacher, (str, Path)) else teacher
    taught = [load_teacher(source, recipe, fabric.device) for source in named]
    teaches = Teachers(taught, recipe.training.teacher_flip) if taught else None
    sources = journal.sources(teaches.files if teaches else (), unlabelled)
    _check_sources(run, resume, sources)
    with Stop() as stop, TemporaryDirectory() as nowhere:
        run = Run(nowhere) if dry_run else run
        begun = resume and run.state.is_file()
        network = _network(recipe, None if begun else init, blank=begun or init is not None)
        loop = Loop(
            recipe, network, _forward(teaches, recipe, fabric), samples["train"], fabric=fabric, stop=stop,
            progress=_Progress(), resume=resume,
            books=Books(run.state, run.metrics, run.tensorboard, recipe.name, about={"recipe": recipe.name}),
        )  # fmt: skip
        if fabric.is_global_zero and loop.saved is None:
            journal.begin(run, recipe, init, sources)
        with loop:
            loop.network.train()
            if dry_run:
                _rehearse(loop, len(samples["val"]))
            else:
                _finish(loop, run, samples["val"])
    return loop.progress.best_scores


@dataclass
class _Progress(Progress):
    best_merit: float | None = None
    best_scores: Scores = field(default_factory=dict)


def _network(recipe: Recipe, init: Path | None, *, blank: bool) -> nn.Module:
    """The network with its first weights: those of `init`, if it is given; random ones where it is `blank`."""
    torch.manual_seed(recipe.training.seed)
    network: nn.Module = build(recipe.network.blank() if blank else recipe.network, recipe.tasks)
    if init:
        reference.load(network, recipe, init)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _forward(teacher: Teachers | None, recipe: Recipe, fabric: Fabric) -> Forward:
    """The network's raw outputs, and its weighted distance from the teacher's, if there is one."""
    options = recipe.training
    parts = options.accumulate * fabric.world_size  # of a batch; the distance is a mean over one of them

    def forward(network: nn.Module, frames: Tensor) -> tuple[Any, Tensor | None]:
        raw = network(normalise(frames))
        if teacher is None:
            return raw, None
        with fabric.autocast():
            goals = teacher(frames)
        far = [options.weights[task] * distance for task, distance in distances(raw, goals).items()]
        return raw, options.teacher / parts * torch.stack(far).sum()

    return forward


def _finish(loop: Loop[_Progress], run: Run, samples: Any) -> None:
    """Takes the steps up to the recipe's last iteration, and validates in between."""
    options = loop.options
    for iteration in loop.steps():
        due = iteration == options.iterations or iteration % options.validate_every == 0
        if due and loop.progress.validated < iteration:
            loop.save()
            _validate(loop, run, samples)
            loop.save()


def _validate(loop: Loop[_Progress], run: Run, samples: Any) -> None:
    """Scores the network, and keeps its weights if they are the best so far."""
    progress, recipe, tasks = loop.progress, loop.recipe, loop.recipe.tasks
    network = loop.network if loop.average is None else loop.average
    loop.show(False)
    try:
        scores = validate(network, samples, recipe, loop.fabric, loop.stop)
    except Stopped:
        loop.stopped()
    loop.network.train()
    progress.validated, value = progress.iteration, merit(scores, tasks)
    better = progress.best_merit is None or value > progress.best_merit
    if better:
        progress.best_merit, progress.best_scores = value, scores
    if loop.journal:
        show_scores(f"{recipe.name}, iteration {progress.iteration}", scores, progress.best_scores, tasks)
        if better:
            about = {"recipe": recipe.name, "iteration": progress.iteration, "scores": scores}
            checkpoint.save(run.weights("float"), network.state_dict(), about)
        loop.journal.write(progress.iteration, scores=scores, best=better)
    loop.show(True)
    loop.interval = journal.Interval()


def _rehearse(loop: Loop[_Progress], validated: int) -> None:
    """Takes a few steps and prints what the whole run would take; validations of `validated` frames come on top."""
    recipe, options, fabric = loop.recipe, loop.options, loop.fabric
    seconds = []
    loop.show(True)
    for _ in range(REHEARSED):
        begin = time.perf_counter()
        if loop.step():
            loop.stopped()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    each = min(seconds[1:])  # the first one sets up what later ones reuse
    epochs = options.iterations * options.batch / len(loop.samples)
    hours, minutes = divmod(round(options.iterations * each / 60), 60)
    parameters = sum(parameter.numel() for parameter in loop.network.parameters())
    rows = [
        ("frames", f"{len(loop.samples)} to train on, {validated} to validate"),
        ("parameters", f"{parameters / 1e6:.2f} million"),
        ("a step", f"{each:.2f} s for {options.batch} frames on {fabric.device}"),
        ("steps", f"{options.iterations}, {epochs:.1f} epochs"),
        ("all steps", f"{hours} h {minutes} min, validations on top"),
        ("memory", f"{_peak(fabric.device) / 2**30:.1f} GiB"),
    ]
    if fabric.is_global_zero:
        show.table(f"{recipe.name}: {REHEARSED} steps taken, nothing written", ("what", "value"), rows, left=2)


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


def _check_sources(run: Run, resume: bool, sources: dict[str, Any]) -> None:
    """UsageError where a run goes on that learned from another teacher or from other pictures."""
    if not (resume and run.exists and run.state.is_file()):
        return
    for kind in ("teacher", "unlabelled"):
        begun, now = _each(run.about.get(kind)), _each(sources.get(kind))
        if [source | {"path": ""} for source in begun] != [source | {"path": ""} for source in now]:
            was = f"with --{kind} {' '.join(source['path'] for source in begun)}" if begun else f"without --{kind}"
            raise UsageError(f"{run} was begun {was}; go on in the same way, or choose another --run")


def _each(sources: Any) -> list[dict[str, Any]]:
    """The one source or the several of an entry of recipe.json."""
    return sources if isinstance(sources, list) else [sources] if sources else []


def _peak(device: torch.device) -> int:
    """The most bytes that were in use so far: of the GPU, else of this process without those that read samples."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return round(peak_rss_mib() * 2**20)
