"""Which recipes TensorRT's parser and builder accept: `python -m tests.targets.tensorrt.accepted [RECIPE ...]`.

Networks with random weights, converted as a run is, for the size of the recipe or `--scale` times it, in every
precision asked for. int8 has scales from no data: the graph is what counts here.
"""

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from edgemtl import compress, models, recipe, registry
from edgemtl.prepare import Deployed, prepare
from edgemtl.recipe import Recipe
from edgemtl.targets.tensorrt import target

STEP = 32  # sizes stay multiples of it, as the backbones' strides are


def scaled(made: Recipe, scale: float) -> Recipe:
    """The recipe for a smaller frame."""
    if scale == 1:
        return made
    height, width = (max(STEP, round(length * scale / STEP) * STEP) for length in made.size)
    return made.model_copy(update={"size": (height, width)})


def blank(made: Recipe, precision: str = "fp32") -> Deployed:
    """The deployment form of a recipe's network with random weights, quantized for int8."""
    torch.manual_seed(0)
    deployed = prepare(models.build(made.network.blank(), made.tasks), made)
    if precision == "int8":
        frames = [torch.rand(1, 3, *made.size) * 255]
        deployed.network, _ = compress.quantize(
            deployed.network, frames, deployed.normalise, made.compression.keep_float
        )
    return deployed


def check(made: Recipe, precision: str) -> tuple[bool, str, float]:
    """Whether every check held, the ones that did not, and the seconds it took."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        target.convert(blank(made, precision), made.size, made.tasks, folder, precision)
        manifest = SimpleNamespace(tasks=made.tasks, size=made.size, precision=precision)
        checks = target.check(folder, manifest)
    wrong = [f"{check.name}: {check.text}" for check in checks if not check.ok]
    return not wrong, "; ".join(wrong), time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=registry.names("recipes"))
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=target.precisions)
    parser.add_argument("--scale", type=float, default=1.0)
    asked = parser.parse_args()
    for name in asked.recipes:
        for precision in asked.precision:
            small = scaled(recipe.load(name), asked.scale)
            try:
                ok, wrong, seconds = check(small, precision)
            except Exception as error:
                ok, wrong, seconds = False, f"{type(error).__name__}: {error}", 0.0
            print(f"{name} {precision} {small.size}: {'accepted' if ok else wrong} ({seconds:.0f} s)", flush=True)
