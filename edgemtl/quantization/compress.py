"""From float to int8: NNCF decides where quantizers sit and calibrates them, fine-tuning makes the weights fit."""

import time
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor, nn

from edgemtl import files, ledger, show
from edgemtl import recipe as recipes
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.frames import spread
from edgemtl.ledger import CODES
from edgemtl.networks.prepare import Deployed, load_float
from edgemtl.quantization import exact, pairing, proof, quantizers, sensitivity
from edgemtl.quantization.calibrate import counts, quantize
from edgemtl.quantization.finetune import finetune
from edgemtl.quantization.float_layers import image, keep_worst_float
from edgemtl.recipe import Recipe
from edgemtl.run import Run
from edgemtl.samples import load
from edgemtl.stop import Stop, Stopped
from edgemtl.training.batches import Lost
from edgemtl.training.losses import check_weights

FIXED = ("name", "tasks", "size", "map_stride", "network")  # recipe keys that the float weights depend on


def compress(
    run: Path | Run, *, data: Path | None = None, settings: Sequence[str] = (), iterations: int | None = None
) -> dict[str, Any]:
    """What was done: counts of quantizers, seconds, losses; leaves int8, calibrated and scales.json in `run`.

    `iterations` overrides the recipe's number of fine-tuning steps; 0 calibrates only. int8.safetensors and scales.json
    are replaced at the very end. UsageError where the run or the data do not allow it. CheckFailed where a loss is not
    finite or SIGINT or SIGTERM asked to stop.
    """
    run = Run(run)
    int8 = run.weights("int8")
    recipe = _recipe(run, settings, iterations)
    teacher = load_float(run)
    deployed = load_float(run)
    for path, module in deployed.network.named_modules():
        if reason := getattr(module, "dropped", None):
            show.note(f"compress: {path}: {reason}")
    if recipe.compression.is_exact:
        exact.rewrite(deployed, recipe)
    samples = load(recipe.data, data, "train", recipe.tasks)
    about: dict[str, Any] = {"recipe": recipe.name, "compression": recipe.compression.model_dump(mode="json")}
    about["exact"] = recipe.compression.is_exact
    if recipe.compression.budget:
        sensitivity.budget(recipe.compression.budget)
    began = time.perf_counter()
    with Stop() as stop:
        try:
            deployed.network, report = _calibrated(deployed, samples, recipe, stop)
            _warn_of_float16(report["beyond_float16"])
            about["kept_float"] = []
            if recipe.compression.budget:
                about["kept_float"] = keep_worst_float(run, deployed, samples, recipe, stop)
                report |= counts(deployed.network)
            _settle(deployed, recipe)
            quantizers.save(run.weights("calibrated"), deployed.network, about)
            report["calibration_seconds"] = time.perf_counter() - began
            if recipe.compression.iterations:
                report |= finetune(deployed, teacher, samples, recipe, stop)
                _settle(deployed, recipe)
        except Stopped as stopped:
            raise CheckFailed(f"stopped {stopped}; {int8} was not touched") from None
        except Lost as lost:
            raise CheckFailed(f"{lost}; {int8} was not touched; try --set training.workers=0") from None
    quantizers.save(int8, deployed.network, about)
    files.write_json(
        run.ledger,
        {
            "format": ledger.FORMAT, "file": int8.name, "sha256": files.sha256(int8), "zero_point": 0,
            "codes": {"weight": CODES[recipe.compression.bits], "activation": CODES[quantizers.BITS]},
            "scales": recipe.compression.scales.replace("-", " "), "kept_float": about["kept_float"],
            **pairing.entries(deployed, torch.zeros(1, 3, *recipe.size)),
        },
    )  # fmt: skip
    text = f"{report['weights']} weights and {report['activations']} activations in int8"
    show.out.print(f"{int8}: {text}", highlight=False, soft_wrap=True)
    show.out.print(f"next: edgemtl convert {run} --target openvino", highlight=False, soft_wrap=True)
    return report


def _settle(deployed: Deployed, recipe: Recipe) -> None:
    """Brings what follows from scales in line: constants of the exact form, biases onto their products' grid."""
    exact.settle(deployed)
    if recipe.compression.scales == "power-of-two":
        proof.prove(deployed, torch.zeros(1, 3, *recipe.size), settle=True)


def _recipe(run: Run, settings: Sequence[str], iterations: int | None) -> Recipe:
    for setting in settings:
        if setting.partition("=")[0].split(".")[0] in FIXED:
            raise UsageError(
                f"--set {setting}: fixed once a network is trained; compress takes compression.* and the like"
            )
    recipe = recipes.override(run.recipe, list(settings))
    if iterations is not None:
        recipe = recipes.override(recipe, [f"compression.iterations={iterations}"])
    check_weights(recipe)
    return recipe


def _calibrated(deployed: Deployed, samples: Any, recipe: Recipe, stop: Stop) -> tuple[nn.Module, dict[str, Any]]:
    """The quantized copy of deployed.network and how many quantizers of which kind it got."""
    count = min(recipe.compression.calibration, len(samples))
    chosen = spread(len(samples), count)
    with show.progress() as bar:
        task = bar.add_task("calibration", total=count, status="")

        def frame(index: int) -> Tensor:
            if stop.asked:
                raise Stopped("during calibration")
            bar.advance(task)
            return image(deployed, samples, index, recipe)

        return quantize(deployed.network, chosen, frame, recipe.compression)


def _warn_of_float16(beyond: dict[str, float]) -> None:
    """Says which values are too large for float16, in which some targets compute what is between int8 layers."""
    if beyond:
        name = max(beyond, key=lambda name: beyond[name])
        show.note(
            f"compress: {len(beyond)} ranges do not fit float16, whose largest number is {ledger.LARGEST:.0f}: {name}"
            f" reaches {beyond[name]:.3g}. Layers before it become infinite where a target computes in float16;"
            " convert for coreml and tensorrt with --set arithmetic=float32"
        )
