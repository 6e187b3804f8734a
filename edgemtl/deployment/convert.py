"""From a run's weights to an artifact that a device can open."""

import json
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import nn

from edgemtl import bundled
from edgemtl.device import overflow, selftest
from edgemtl.device.evaluate import Scores
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_entries, replacing_folder, sha256
from edgemtl.networks import checkpoint
from edgemtl.networks.prepare import Deployed, narrow
from edgemtl.networks.session import TorchSession
from edgemtl.quantization import weights
from edgemtl.records import artifact
from edgemtl.records import recipe as recipes
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run, describe_weights, form_of
from edgemtl.records.target import Original, load_target
from edgemtl.tasks import Size


def convert(
    run: Path | Run | str,
    *,
    target: str,
    precision: str = "int8",
    tasks: Sequence[str] | None = None,
    out: Path | None = None,
    settings: Sequence[str] = (),
) -> Path:
    """The artifact's folder: `out`, or else RUN/TARGET for int8, RUN/TARGET-fp32 and so on for the others.

    The run is a folder, or a bundled model by its name, which needs `out`. With `tasks` the artifact has only these,
    and only what of the network they need: RUN/TARGET-depth+normals. Their maps are those of the whole artifact.
    `settings` are the target's own, such as "ios=18". An existing artifact is replaced when the new one is complete.
    UsageError for an unknown target, precision, task or setting, a run without the weights, a missing package, or a
    folder that cannot be written or holds something else.
    """
    chosen = load_target(target)
    if precision not in chosen.precisions:
        raise UsageError(f"unknown precision {precision!r}; target {target} offers {', '.join(chosen.precisions)}")
    given, run = run, Run(run if isinstance(run, Run) else bundled.run(run))
    known = [field.name for field in fields(chosen.options)]
    options = recipes.parse_settings(settings, f"target {target}", known)
    recipe, file = run.recipe, run.need(form_of(precision))
    kept = recipe if tasks is None else recipes.only(recipe, list(tasks))
    cut = [] if kept.tasks.keys() == recipe.tasks.keys() else list(kept.tasks)
    started = time.monotonic()
    folder = _folder(given, run, out, run.artifact(target, precision, cut))
    with show.err.status(f"converting {file} for {target}"), replacing_folder(folder) as temporary:
        facts = _facts(kept, precision)
        deployed = weights.load(run, form_of(precision))
        if cut:
            narrow(deployed, cut)
        asked = chosen.options(**options)
        original = Original(deployed, recipe.size, kept.tasks, precision, facts, asked)
        names = chosen.convert(original, temporary)
        held = chosen.quantized(temporary) if precision == "int8" else None
        changes = {
            "target": target,
            "options": options,
            "files": artifact.describe(temporary, names),
            "toolchain": artifact.versions(("torch", "nncf", *chosen.packages)),
            "exact": _exact(deployed, recipe) if precision == "int8" else (),
            "needs": overflow.prove_no_overflow(held).needs if held is not None else (),
            "scores": {task: scores for task, scores in _scores(run, file).items() if task in kept.tasks},
        }
        manifest = describe_weights(kept, file, precision).model_copy(update=changes)
        test = store_selftest(temporary, deployed, recipe.size, artifact.words(manifest))
        manifest = manifest.model_copy(update={"files": artifact.describe(temporary, [*names, test])})
        artifact.write(temporary, manifest)
    megabytes = artifact.size(manifest) / 1e6
    seconds = time.monotonic() - started
    show.line(f"{folder}: {precision}, {megabytes:.2f} MB, {seconds:.1f} s")
    named = f" --run {given}" if out is not None and folder.resolve().parent != run.folder.resolve() else ""
    show.line(f"next: edgemtl verify {folder}{named}")
    return folder


def _folder(given: Path | Run | str, run: Run, out: Path | None, usual: Path) -> Path:
    """Where the artifact goes; UsageError where it would replace something else, or a bundled model has no `out`."""
    if out is None:
        if Path(given) != run.folder:
            raise UsageError(f"{given} is a bundled model; name the artifact's folder with --out DIR")
        return usual
    if out.exists() and not (out / artifact.FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an artifact's folder; name another one")
    return out


def _exact(deployed: Deployed, recipe: Recipe) -> tuple[str, ...]:
    """The tasks whose maps are exact by construction."""
    from edgemtl.quantization import proof  # slow to import, and needs NNCF

    return proof.prove(deployed, torch.zeros(1, 3, *recipe.size)).exact


def store_selftest(folder: Path, deployed: nn.Module, size: Size, words: dict[str, Any] | None = None) -> str:
    """Writes the self-test, see edgemtl.device.selftest, and gives its file's name."""
    frames, session = selftest.frames(size), TorchSession(deployed, "cpu")
    return selftest.write(folder, frames, [session(frame) for frame in frames], words)


def _facts(recipe: Recipe, precision: str) -> dict[str, str]:
    """What goes into the target's own files, so that they explain themselves without the manifest."""
    tasks = {name: task.model_dump(mode="json") for name, task in recipe.tasks.items()}
    described = {"recipe": recipe.name, "precision": precision, "map_stride": recipe.map_stride, "tasks": tasks}
    described |= {"fit": recipe.fit} if recipe.fit != "stretched" else {}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in described.items()}


def _scores(run: Run, file: Path) -> Scores:
    """The scores of these very weights: those that `evaluate` wrote, else those that training wrote."""
    entry = read_entries(run.scores).get(file.stem, {})
    if entry.get("weights_sha256") == sha256(file):
        return entry["tasks"]
    return checkpoint.about(file).get("scores") or {}
