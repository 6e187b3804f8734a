"""A run's weights, or those of a method's authors, as they are deployed: a session in torch like any artifact's."""

from pathlib import Path

import torch

from edgemtl import models
from edgemtl.networks import checkpoint
from edgemtl.networks.prepare import Deployed, load_float, load_reference, prepare
from edgemtl.networks.session import TorchSession
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run


def session(run: Run, form: str, device: str | None = None) -> TorchSession:
    """A run's weights, ready to run; UsageError where the file is missing, broken or does not fit the recipe."""
    return TorchSession(load(run, form), device, form)


def published(recipe: Recipe, file: Path, device: str | None = None) -> TorchSession:
    """The recipe's network with its authors' weights, ready to run; UsageError where they do not fit."""
    return TorchSession(load_reference(recipe, file), device, file.name)


def load(run: Path | Run, form: str) -> Deployed:
    """The deployment form of a run in eval mode, with its weights in one of `edgemtl.records.run.FORMS`.

    Of the int8 ones with one fake_quantize operation per quantizer and use. UsageError where the file is missing,
    broken or does not fit the run's recipe.
    """
    if form == "float":
        return load_float(run)
    from edgemtl.quantization import exact, quantizers  # slow to import, as they bring NNCF

    run = Run(run)
    recipe, file = run.recipe, run.weights(form)
    deployed = prepare(models.build(recipe.network.blank(), recipe.tasks), recipe, blank=True)
    about = checkpoint.about(file)
    quantizers.check_format(file, about)
    if about["exact"]:
        exact.rewrite(deployed, recipe, int(about["exact"]))
    quantizers.load(file, deployed.network, deployed.normalise(torch.zeros(1, 3, *recipe.size)))
    exact.settle(deployed)
    return deployed
