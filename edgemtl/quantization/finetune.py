"""Quantization-aware fine-tuning: weights and biases are trained, scales stay fixed.

Against the labels, and against the float network's raw outputs.
"""

import contextlib
import math
import time
from typing import Any, Generator

import numpy as np
import torch
from torch import Tensor, nn

from edgemtl import objectives, show
from edgemtl.errors import CheckFailed
from edgemtl.networks.prepare import Deployed
from edgemtl.networks.session import several
from edgemtl.quantization import quantizers
from edgemtl.recipe import Recipe
from edgemtl.stop import Stop, Stopped
from edgemtl.training.batches import loader, tensors
from edgemtl.training.launch import has_bfloat16
from edgemtl.training.losses import losses

LOG_EVERY = 20  # iterations, where nobody sees the progress bar


def finetune(deployed: Deployed, teacher: Deployed, samples: Any, recipe: Recipe, stop: Stop) -> dict[str, Any]:
    """Trains deployed.network, a quantized one, in place: AdamW, the rate falling to 0 along half a cosine."""
    options, tasks = recipe.compression, recipe.tasks
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = has_bfloat16(device.type)
    student = deployed.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = teacher.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    normalise = deployed.normalise.to(device)
    trained = [p.requires_grad_(True) for p in student.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=options.rate, weight_decay=0.0)
    began = time.perf_counter()
    history: list[dict[str, float]] = []
    with show.progress() as bar, contextlib.closing(_batches(samples, recipe, stop)) as batches:
        task = bar.add_task("fine-tuning", total=options.iterations, status="")
        _tune(student, True)
        for batch in batches:
            if stop.asked:
                raise Stopped(f"at iteration {len(history)} of {options.iterations} of fine-tuning")
            _, labels = tensors(batch, tasks)
            labels = {name: label.to(device) for name, label in labels.items()}
            frame = several(batch["image"].to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=fast):
                with torch.no_grad():
                    wanted = teacher.raw(frame) if options.teacher else {}
                raw = student(normalise(frame))
            found = losses(raw, labels, tasks, recipe.training.losses)
            terms = [recipe.training.weights[name] * found[name] for name in tasks]
            if options.teacher:
                taught = {n: objectives.of(n).distance(raw[n].float(), wanted[n].float()) for n in tasks}
                terms += [options.teacher * recipe.training.weights[name] * taught[name] for name in tasks]
            total = torch.stack(terms).sum()
            _check_finite(found, total, len(history) + 1)
            for group in optimizer.param_groups:
                group["lr"] = options.rate * (1 + math.cos(math.pi * len(history) / options.iterations)) / 2
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            history.append({name: value.item() for name, value in found.items()})
            text = " ".join(f"{name} {value:.3g}" for name, value in history[-1].items())
            bar.update(task, advance=1, status=text)
            if not show.err.is_terminal and len(history) % LOG_EVERY == 0:
                left = (time.perf_counter() - began) / len(history) * (options.iterations - len(history)) / 60
                show.err.print(f"{len(history)}/{options.iterations} {text}, {left:.0f} min left", highlight=False)
    _tune(student, False)
    student.requires_grad_(False).cpu()
    normalise.cpu()
    tenth = max(1, len(history) // 10)
    return {
        "iterations": len(history),
        "finetuning_seconds": time.perf_counter() - began,
        "first_losses": {name: float(np.mean([h[name] for h in history[:tenth]])) for name in tasks},
        "last_losses": {name: float(np.mean([h[name] for h in history[-tenth:]])) for name in tasks},
    }


def _batches(samples: Any, recipe: Recipe, stop: Stop) -> Generator[dict[str, Tensor], None, None]:
    """The augmented batches of fine-tuning: training's stream under another seed."""
    own = {"iterations": recipe.compression.iterations, "batch": recipe.compression.batch, "accumulate": 1}
    training = recipe.training.model_copy(update={**own, "seed": recipe.training.seed + 1})
    yield from loader(samples, recipe.model_copy(update={"training": training}), 0, stop=stop)


def _tune(network: nn.Module, on: bool) -> None:
    for quantizer in quantizers.quantizers(network):
        quantizer.tuning = on


def _check_finite(found: dict[str, Tensor], total: Tensor, iteration: int) -> None:
    for name, value in {**found, "total": total}.items():
        if not torch.isfinite(value):
            raise CheckFailed(
                f"the {name} loss is {value.item()} at iteration {iteration} of fine-tuning;"
                " try a lower compression.rate"
            )
