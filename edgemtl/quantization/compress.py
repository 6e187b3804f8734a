"""From float to int8: NNCF decides where quantizers sit and calibrates them, fine-tuning makes the weights fit."""

import time
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgemtl.ground import files, show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.stop import Stop, Stopped
from edgemtl.networks import checkpoint
from edgemtl.networks.prepare import Deployed, load_float
from edgemtl.quantization import exact, pairing, proof, quantizers, sensitivity
from edgemtl.quantization.calibrate import count_quantizers, quantize
from edgemtl.quantization.finetune import finetune
from edgemtl.quantization.float_layers import image, keep_worst_float
from edgemtl.records import ledger
from edgemtl.records import recipe as recipes
from edgemtl.records.frames import spread
from edgemtl.records.ledger import CODES
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run
from edgemtl.records.samples import load_samples
from edgemtl.training import journal
from edgemtl.training.launch import launch
from edgemtl.training.losses import check_weights

FIXED = ("name", "tasks", "size", "map_stride", "network")  # recipe keys that the float weights depend on


def compress(
    run: Path | Run,
    *,
    data: Path | None = None,
    settings: Sequence[str] = (),
    iterations: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """What was done: counts of quantizers, seconds, losses; leaves int8, calibrated and scales.json in `run`.

    `iterations` overrides the recipe's number of fine-tuning steps; 0 calibrates only. int8.safetensors and scales.json
    are replaced at the very end. With `resume` an interrupted fine-tuning goes on, if there is one; on a CPU it ends
    with the very files of an undisturbed one. UsageError where the run or the data do not allow it. CheckFailed where a
    loss or the gradient is not finite, and where SIGINT or SIGTERM asked to stop.
    """
    run = Run(run)
    int8 = run.weights("int8")
    recipe = _recipe(run, settings, iterations)
    begun = _begun(run, recipe) if resume and run.finetuning.is_file() else None
    fabric = launch("auto", "cuda" if torch.cuda.is_available() else "cpu", 1, 1, "auto")
    if fabric.world_size > 1:
        raise UsageError(f"compress runs in one process, not in {fabric.world_size}")
    teacher = load_float(run)
    deployed = load_float(run)
    for path, module in deployed.network.named_modules():
        if reason := getattr(module, "dropped", None):
            show.note(f"compress: {path}: {reason}")
    if recipe.compression.is_exact:
        exact.rewrite(deployed, recipe)
    samples = load_samples(recipe.data, data, "train", recipe.tasks)
    about: dict[str, Any] = {
        "recipe": recipe.name,
        "compression": recipe.compression.model_dump(mode="json", exclude=set(journal.FREE)),
        "exact": recipe.compression.is_exact and exact.FORM,
    }
    if recipe.compression.budget:
        sensitivity.read_budget(recipe.compression.budget)
    if run.finetuning.is_file() and not resume:
        show.note(f"compress: begins with calibration; until that is done, --resume would go on with {run.finetuning}")
    with Stop() as stop:
        try:
            state, program = (begun, None) if begun else _calibrate(run, deployed, samples, recipe, stop, about)
        except Stopped as stopped:
            raise CheckFailed(f"stopped {stopped}; {int8} was not touched") from None
        about["kept_float"], report = state["kept_float"], state["report"]
        if begun:
            quantizers.load(run.weights("calibrated"), deployed.network, _image(deployed, recipe), tuned=True)
            exact.settle(deployed)
        if recipe.compression.iterations:
            report |= finetune(
                deployed, teacher, samples, recipe, run=run, fabric=fabric, stop=stop, about=state, resume=bool(begun)
            )
            program = _settle(deployed, recipe, program)
    quantizers.save(int8, deployed.network, about)
    files.write_json(
        run.ledger,
        {
            "format": ledger.FORMAT, "file": int8.name, "sha256": files.sha256(int8), "zero_point": 0,
            "codes": {"weight": CODES[recipe.compression.bits], "activation": CODES[quantizers.BITS]},
            "scales": recipe.compression.scales.replace("-", " "), "kept_float": about["kept_float"],
            **pairing.ledger_entries(deployed, torch.zeros(1, 3, *recipe.size), program),
        },
    )  # fmt: skip
    run.finetuning.unlink(missing_ok=True)
    text = f"{report['weights']} weights and {report['activations']} activations in int8"
    show.line(f"{int8}: {text}")
    show.line(f"next: edgemtl convert {run} --target openvino")
    return report


def _calibrate(
    run: Run, deployed: Deployed, samples: Any, recipe: Recipe, stop: Stop, about: dict[str, Any]
) -> tuple[dict[str, Any], ExportedProgram | None]:
    """Quantizes deployed.network and writes the calibrated weights, which say `about` of themselves.

    Gives back what fine-tuning's state says of itself, so that it goes on with the same recipe and weights only; and
    what `_settle` gives back.
    """
    began = time.perf_counter()
    deployed.network, report = _calibrated(deployed, samples, recipe, stop)
    _warn_of_float16(report["beyond_float16"])
    floats: list[dict[str, Any]] = []
    if recipe.compression.budget:
        floats = keep_worst_float(run, deployed, samples, recipe, stop)
        report |= count_quantizers(deployed.network)
    program = _settle(deployed, recipe)
    quantizers.save(run.weights("calibrated"), deployed.network, about | {"kept_float": floats})
    run.finetuning.unlink(missing_ok=True)  # which is of other weights now
    report["calibration_seconds"] = time.perf_counter() - began
    state = {"recipe": recipe.model_dump(mode="json"), "begun": _hashes(run), "kept_float": floats, "report": report}
    return state, program


def _begun(run: Run, recipe: Recipe) -> dict[str, Any]:
    """What the state of an interrupted fine-tuning says of itself; UsageError where this is not what it began with."""
    file = run.finetuning
    about = checkpoint.about(file)
    if "begun" not in about:
        raise UsageError(f"{file} holds no fine-tuning that this version of edgemtl can continue")
    changed = journal.recipe_change(about["recipe"], recipe) or files.difference(about["begun"], _hashes(run))
    if changed:
        raise UsageError(f"{file} was begun differently: {changed}; resume with the same, or begin without --resume")
    return about


def _hashes(run: Run) -> dict[str, str]:
    """The SHA-256 of each of the run's weights that fine-tuning begins with."""
    return {file.name: files.sha256(file) for file in map(run.need, ("float", "calibrated"))}


def _image(deployed: Deployed, recipe: Recipe) -> Tensor:
    return deployed.normalise(torch.zeros(1, 3, *recipe.size))


def _settle(deployed: Deployed, recipe: Recipe, program: ExportedProgram | None = None) -> ExportedProgram | None:
    """Brings what follows from scales in line: constants of the exact form, biases onto their products' grid.

    Gives back the graph, if it was needed. `program` is what an earlier call gave back: a graph holds names of
    tensors, not their values, and fine-tuning changes only those.
    """
    exact.settle(deployed)
    if recipe.compression.scales != "power-of-two":
        return None
    frame = torch.zeros(1, 3, *recipe.size)
    program = program or quantizers.export(deployed, frame)
    proof.prove(deployed, frame, settle=True, program=program)
    return program


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
    options = recipe.compression
    if options.batch % options.accumulate:
        raise UsageError(
            f"compression.batch={options.batch} must be a multiple of compression.accumulate={options.accumulate}"
        )
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
