"""Which layers stay float: measures a run's sensitivity, and keeps the worst layers float to meet a budget."""

import copy
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgemtl.device import evaluate
from edgemtl.ground.errors import UsageError
from edgemtl.ground.stop import Stop, Stopped
from edgemtl.networks import checkpoint
from edgemtl.networks.prepare import Deployed, load_float
from edgemtl.networks.session import several
from edgemtl.quantization import exact, quantizers, sensitivity
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.quantization.replay import Replay
from edgemtl.records.frames import fit, spread
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run
from edgemtl.records.samples import load_samples
from edgemtl.tasks import delta_m

MEASURED, JUDGED = 4, 48  # frames of the train split for the sensitivity matrix, and that scores are taken on


def measure_sensitivity(
    run: Path | Run, *, data: Path | None = None, frames: int = MEASURED, out: Path | None = None
) -> np.ndarray:
    """The noise (groups, tasks) that each group of a compressed run's quantizers brings to each task, alone.

    Prints the worst layers, leaves the matrix in the run's sensitivity.json and, with `out`, a picture (SVG). Frames
    are evenly spaced ones of the train split. UsageError where the run was not compressed or the data is missing.
    """
    run = Run(run)
    recipe, calibrated = run.recipe, run.need("calibrated")
    deployed = load_float(run)
    if form := checkpoint.about(calibrated).get("exact"):
        exact.rewrite(deployed, recipe, int(form))
    network, unrounded = copy.deepcopy(deployed.network), deployed.network.state_dict()
    quantizers.load(calibrated, network, deployed.normalise(torch.zeros(1, 3, *recipe.size)))
    network.load_state_dict(unrounded, strict=False)  # the file has them rounded
    samples = load_samples(recipe.data, data, "train", recipe.tasks)
    images = [image(deployed, samples, index, recipe) for index in spread(len(samples), frames)]
    graph, tasks = Replay(network, images[0]), list(recipe.tasks)
    rows = sensitivity.groups(graph)
    noises = sensitivity.noise_matrix(graph, rows, images, tasks)
    sensitivity.show_worst(rows, noises, tasks)
    sensitivity.save(run.sensitivity, rows, noises, tasks, {"frames": len(images)})
    if out:
        sensitivity.draw(rows, noises, tasks, out)
    return noises


def keep_worst_float(run: Run, deployed: Deployed, samples: Any, recipe: Recipe, stop: Stop) -> list[dict[str, Any]]:
    """The layers that stay float for the recipe's budget, each with its reason; removes their quantizers, in place.

    The tasks' scores on frames of the train split decide, of the calibrated network before fine-tuning. Prints the
    worst layers and the choice, and writes the matrix into the run's sensitivity.json. Warns where the budget cannot be
    met. UsageError where a score of the float network is 0; Stopped where `stop` was asked.
    """
    allowed = sensitivity.read_budget(recipe.compression.budget)
    network, tasks = deployed.network, recipe.tasks
    few, many = (spread(len(samples), count) for count in (MEASURED, JUDGED))
    graph = Replay(network, image(deployed, samples, few[0], recipe))
    rows = sensitivity.groups(graph)

    def check() -> None:
        if stop.asked:
            raise Stopped("while looking for layers to keep float")

    def scores(on: Collection[FakeQuantize]) -> dict[str, float]:
        def session(frame: np.ndarray) -> dict[str, np.ndarray]:
            check()
            raw = graph.run(deployed.normalise(several(torch.from_numpy(frame)[None])), on)
            return {task: map[0].numpy() for task, map in deployed.activate(raw).items()}

        chosen = [samples[i] for i in many]
        found = evaluate.take_scores(session, chosen, recipe, title=f"judged on {len(chosen)} training frames")
        return {name: found[name].scores()[task.headline] for name, task in tasks.items()}

    every = frozenset(graph.quantizers.values())
    unrounded = scores(frozenset())
    for name, task in tasks.items():
        if not (unrounded[name] and math.isfinite(unrounded[name])):
            raise UsageError(
                f"{sensitivity.OPTION} cannot be judged: the float network's {name}.{task.headline} is"
                f" {unrounded[name]:g} on {len(many)} frames of the train split; train longer, or set no budget"
            )
    images = (image(deployed, samples, index, recipe) for index in few)
    noises = sensitivity.noise_matrix(graph, rows, images, list(tasks), check)

    def judge(off: Collection[FakeQuantize]) -> dict[str, float]:
        got = scores(every - frozenset(off))
        gains = {n: delta_m({n: got[n]}, {n: unrounded[n]}, {n: task}) for n, task in tasks.items()}
        return {name: gain for name, gain in gains.items() if gain is not None}  # all of them, by the check above

    choice = sensitivity.choose_float(rows, noises, allowed, judge)
    sensitivity.show_worst(rows, noises, list(tasks))
    sensitivity.show_choice(choice, allowed, recipe.compression.budget)
    for row in choice.kept:
        for slot, module in quantizers.slots(network).items():
            if module in rows[row].quantizers:
                quantizers.remove(network, slot)
    kept = sensitivity.reasons(rows, noises, choice.kept, list(tasks))
    sensitivity.save(
        run.sensitivity, rows, noises, list(tasks), {"budget": recipe.compression.budget, "kept_float": kept}
    )
    return kept


def image(deployed: Deployed, samples: Any, index: int, recipe: Recipe) -> Tensor:
    """A sample's image as the network takes it: (1, 3, H, W) float32, normalised."""
    fitted = fit(samples[index]["image"], recipe.size, recipe.fit)
    return deployed.normalise(several(torch.from_numpy(fitted)[None]))
