"""Quantization-aware fine-tuning: weights and biases are trained, scales stay fixed.

Against the labels, and against the float network's raw outputs. The loop is that of training.
"""

import time
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgemtl import objectives
from edgemtl.ground.files import read_lines
from edgemtl.ground.stop import Stop
from edgemtl.networks.prepare import Deployed
from edgemtl.networks.session import several
from edgemtl.quantization import quantizers
from edgemtl.records.recipe import Compression, Recipe, Training
from edgemtl.records.run import Run
from edgemtl.training.loop import Books, Forward, Loop, Progress


def finetune(
    deployed: Deployed,
    teacher: Deployed,
    samples: Any,
    recipe: Recipe,
    *,
    run: Run,
    fabric: Fabric,
    stop: Stop,
    about: dict[str, Any],
    resume: bool = False,
) -> dict[str, Any]:
    """Trains deployed.network, a quantized one, in place: AdamW, the rate falling to 0 along half a cosine.

    Gives back iterations, seconds, and each task's mean loss in the first and in the last line of its journal. It is on
    the CPU again after that. With `resume` it goes on from the state in run.finetuning, which says `about` of itself.
    CheckFailed where a loss or the gradient is not finite or somebody asked to stop, see `Loop.steps`.
    """
    recipe = recipe.model_copy(update={"training": _training(recipe.training, recipe.compression)})
    deployed.to(fabric.device)
    student = deployed.network.requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = teacher.to(fabric.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    began = time.perf_counter()
    books = Books(
        run.finetuning, run.finetuning_metrics, run.tensorboard / "finetuning", "fine-tuning", " of fine-tuning",
        "compression", about,
    )  # fmt: skip
    loop = Loop(
        recipe, student, _forward(deployed.normalise, teacher, recipe, fabric), samples, fabric=fabric, stop=stop,
        books=books, progress=Progress(), resume=resume,
    )  # fmt: skip
    _tune(student, True)
    with loop:
        if loop.saved is None:
            loop.save()  # what led here takes minutes
        for _ in loop.steps():
            pass
        loop.log()
    _tune(student, False)
    deployed.requires_grad_(False).cpu()
    lines = [line["loss"] for line in read_lines(run.finetuning_metrics)]
    first, last = ({name: line.get(name) for name in recipe.tasks} for line in (lines[0], lines[-1]))
    return {
        "iterations": recipe.training.iterations,
        "finetuning_seconds": time.perf_counter() - began,
        "first_losses": first,
        "last_losses": last,
    }


def _training(training: Training, options: Compression) -> Training:
    """Fine-tuning in the words of training; another seed than the float network's, so another order of samples."""
    return training.model_copy(
        update={
            "iterations": options.iterations, "batch": options.batch, "accumulate": options.accumulate,
            "save_every": options.save_every, "seed": training.seed + 1,
            "optimizer": "adamw", "rate": options.rate, "backbone_rate": 1.0, "weight_decay": 0.0,
            "schedule": "one-cycle", "warmup": 0.0, "balance": "fixed", "ema": 0.0,
        }
    )  # fmt: skip


def _forward(normalise: nn.Module, teacher: Deployed, recipe: Recipe, fabric: Fabric) -> Forward:
    """The student's raw outputs, and its weighted distance from the teacher's, if the recipe wants that."""
    weight, tasks = recipe.compression.teacher, recipe.training.weights

    def forward(network: nn.Module, images: Tensor) -> tuple[Any, Tensor | None]:
        frames = several(images)
        raw = network(normalise(frames))
        if not weight:
            return raw, None
        with torch.no_grad(), fabric.autocast():
            goals = teacher.raw(frames)
        distances = [
            weight * tasks[name] * objectives.of(name).distance(raw[name].float(), goals[name].float())
            for name in recipe.tasks
        ]
        return raw, torch.stack(distances).sum() / recipe.training.accumulate

    return forward


def _tune(network: nn.Module, on: bool) -> None:
    for quantizer in quantizers.quantizers(network):
        quantizer.tuning = on
