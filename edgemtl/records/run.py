"""A run's folder: what the stages from training to the report leave in it for each other, and under which names."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_json, sha256
from edgemtl.records import artifact, recipe
from edgemtl.records.artifact import File, Manifest
from edgemtl.records.recipe import Recipe

FORMS = ("float", "calibrated", "int8")  # of a run's weights, in the order in which they are made
TORCH = "torch"  # in place of a target's name, of weights that no target converted


class Run:
    """The folder of one run; nothing need be in it yet.

    Stages take a run or its folder's path, and `Run` takes both.

    >>> run = Run("runs/nyud")
    >>> run.weights("float"), run.artifact("openvino")
    (PosixPath('runs/nyud/float.safetensors'), PosixPath('runs/nyud/openvino'))
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.recipe_file = self.folder / "recipe.json"  # what it is, see `about`; a folder without it is no run
        self.metrics = self.folder / "metrics.jsonl"  # losses and scores while it was trained, one record a line
        self.tensorboard = self.folder / "tensorboard"  # the same, for TensorBoard
        self.state = self.folder / "last.safetensors"  # all that training needs to go on
        self.finetuning = self.folder / "finetuning.safetensors"  # all that fine-tuning needs to go on, until it ends
        self.finetuning_metrics = self.folder / "finetuning.jsonl"  # losses while it was fine-tuned
        self.ledger = self.folder / "scales.json"  # every quantized tensor of the int8 weights, see records/ledger.py
        self.sensitivity = self.folder / "sensitivity.json"  # what each layer's int8 costs each task
        # By the name of weights or of an artifact's folder:
        self.scores = self.folder / "scores.json"  # over a whole split
        self.partial_scores = self.folder / "matrix.json"  # over a part of it
        self.verified = self.folder / "verify.json"  # the last comparison with torch
        self.measured = self.folder / "bench.json"  # times and memory

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def exists(self) -> bool:
        """Whether the folder is a run's."""
        return self.recipe_file.is_file()

    @property
    def about(self) -> dict[str, Any]:
        """What recipe.json says: the recipe, the versions and the commit it was begun with, the weights it began from.

        UsageError where there is none.
        """
        raw = read_json(self.recipe_file)
        return raw if isinstance(raw, dict) else {}

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that it was made with; UsageError where there is none of this version."""
        return recipe.read(self.recipe_file)

    def weights(self, form: str) -> Path:
        """The file of the weights in one of FORMS: the best float ones, or int8 before or after fine-tuning."""
        return self.folder / f"{form}.safetensors"

    def need(self, form: str) -> Path:
        """The file of these weights; UsageError naming the command that writes it where it is missing."""
        file, command = self.weights(form), "train" if form == "float" else "compress"
        if not file.is_file():
            raise UsageError(f"{file} does not exist; `edgemtl {command}` writes it")
        return file

    def describe(self, form: str) -> Manifest:
        """What a manifest would say of these weights; UsageError where they are missing."""
        return describe_weights(self.recipe, self.need(form), "fp32" if form == "float" else "int8")

    def artifact(self, target: str, precision: str = "int8", tasks: Iterable[str] = ()) -> Path:
        """The folder of an artifact: named after the target for int8, "TARGET-fp32" and so on for the others.

        Of one that has some of the run's `tasks` alone, also after these: "TARGET-depth+normals".
        """
        name = target if precision == "int8" else f"{target}-{precision}"
        return self.folder / "-".join(filter(None, (name, "+".join(tasks))))

    def artifacts(self) -> dict[Path, Manifest]:
        """The folders of all its artifacts, sorted, with their manifests."""
        return {file.parent: artifact.read(file.parent) for file in sorted(self.folder.glob(f"[!.]*/{artifact.FILE}"))}


def describe_weights(recipe: Recipe, file: Path, precision: str) -> Manifest:
    """What a manifest would say of a file of weights for a recipe's network."""
    digest = sha256(file)
    return Manifest(
        recipe=recipe.name,
        target=TORCH,
        precision=precision,
        size=recipe.size,
        fit=recipe.fit,
        map_stride=recipe.map_stride,
        tasks=recipe.tasks,
        data=recipe.data,
        files={file.name: File(sha256=digest, bytes=file.stat().st_size)},
        weights_sha256=digest,
        toolchain=artifact.versions((TORCH,)),
    )


def form_of(precision: str) -> str:
    """Which of a run's weights an artifact of a precision is made from."""
    return "int8" if precision == "int8" else "float"


def run_of(path: Path, named: Path | Run | None = None) -> Run:
    """The run that an artifact is of: the one that was named, else the folder around it, which may be none."""
    return Run(named or path.resolve().parent)
