"""Which recipes TensorRT's parser and builder accept: `python -m tests.targets.tensorrt.accepted [RECIPE ...]`.

Networks with random weights, converted as a run is, for the size of the recipe or `--scale` times it, in every
precision asked for. int8 has scales from no data: the graph is what counts here.
"""

import argparse
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

from edgemtl import models
from edgemtl.ground import registry
from edgemtl.networks.prepare import Deployed, prepare
from edgemtl.quantization import calibrate
from edgemtl.records import recipe
from edgemtl.records.recipe import Recipe
from edgemtl.records.target import Original
from edgemtl.targets import _onnx
from edgemtl.targets.tensorrt import target
from edgemtl.targets.tensorrt.parser import ask

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
        deployed.network, _ = calibrate.quantize(
            deployed.network, frames, deployed.normalise, made.compression.keep_float
        )
    return deployed


def written(made: Recipe, precision: str, folder: Path, simplified: bool = True) -> list[Path]:
    """The ONNX files of a recipe's artifact; where not simplified, as the converter writes them without onnxsim."""
    if simplified:
        names = target.convert(Original(blank(made, precision), made.size, made.tasks, precision), folder)
        return [folder / name for name in names if name.endswith(".onnx")]
    with patch.object(_onnx, "simplify", lambda source, result: "not asked for"):
        return written(made, precision, folder)


def check(made: Recipe, precision: str, simplified: bool = True) -> str:
    """Empty where the lint and the parser take every file; else why not."""
    with tempfile.TemporaryDirectory() as scratch:
        files = written(made, precision, Path(scratch), simplified)
        return "; ".join(f"{file.name}: {verdict.errors}" for file, verdict in zip(files, ask(files)) if not verdict.ok)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=registry.names("recipes"))
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=target.precisions)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--plain", action="store_true", help="without onnxsim, which takes minutes for large networks")
    asked = parser.parse_args()
    for name in asked.recipes:
        for precision in asked.precision:
            made, before = scaled(recipe.load(name), asked.scale), sum(os.times()[:4])
            try:
                wrong = check(made, precision, not asked.plain)
            except Exception as error:  # the others are to be asked all the same
                wrong = f"{type(error).__name__}: {error}"
            seconds = sum(os.times()[:4]) - before  # of CPU, with the parser's process
            print(f"{name} {precision} {made.size}: {wrong or 'accepted'} ({seconds:.0f} CPU seconds)", flush=True)
