"""What a run writes about itself: recipe.json, metrics.jsonl and TensorBoard's files."""

import math
import platform
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Iterator

import cv2
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from edgemtl.device.camera import images_in
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import difference, dumps, read_lines, replacing, sha256, write_json
from edgemtl.records import artifact
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run

FREE = ("workers", "cache", "save_every", "recompute")  # of `training` and `compression`: no say in the weights
# Beside edgemtl and OpenCV: what computes the weights, and what reads or makes the data.
PACKAGES = ("torch", "timm", "lightning-fabric", "safetensors", "nncf", "numpy", "scipy", "pillow", "embreex")


def begin(run: Run, recipe: Recipe, init: Path | None = None, sources: dict[str, Any] | None = None) -> None:
    """Writes recipe.json: the resolved recipe, the versions, the commit it runs with, the file it starts from, and
    `sources`."""
    about = {"recipe": recipe.model_dump(mode="json"), "versions": versions(), "commit": commit()}
    if init is not None:
        about["init"] = _file(init)
    write_json(run.recipe_file, about | (sources or {}))


def sources(teachers: Sequence[Path], unlabelled: Path | None) -> dict[str, Any]:
    """What a run learns from beside its data set: the teachers' files, and the number of a folder's pictures."""
    entries: dict[str, Any] = {}
    if teachers:
        entries["teacher"] = [_file(teacher) for teacher in teachers]
    if unlabelled is not None:
        entries["unlabelled"] = {"path": str(unlabelled), "pictures": len(images_in(unlabelled))}
    return entries


def _file(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": sha256(path)}


def check_same(run: Run, recipe: Recipe) -> None:
    """UsageError naming the first key in which the run's recipe differs from `recipe`, see `recipe_change`."""
    if other := recipe_change(run.about.get("recipe"), recipe):
        raise UsageError(
            f"{run} was started with another recipe: {other}; resume with the same or choose another --run"
        )


def recipe_change(stored: Any, recipe: Recipe) -> str | None:
    """The first key in which a recipe in JSON differs from `recipe`, in words; None where they are equal.

    Keys in FREE do not count. A key that did not exist when the other recipe was stored counts with its default.
    """
    with suppress(ValidationError):
        stored = Recipe.model_validate(stored).model_dump(mode="json")
    recipes = [stored, recipe.model_dump(mode="json")]
    for number, each in enumerate(recipes):
        parts = {part: each.get(part) for part in ("training", "compression")} if isinstance(each, dict) else {}
        for part, options in parts.items():
            if isinstance(options, dict):
                recipes[number] |= {part: {key: value for key, value in options.items() if key not in FREE}}
    return difference(*recipes)


def versions() -> dict[str, str]:
    """The versions of Python and of every installed package that the weights depend on."""
    # OpenCV has four packages on PyPI, and a system's own has none; the module itself knows.
    return {"python": platform.python_version(), **artifact.versions(PACKAGES), "opencv": cv2.__version__}


def commit() -> str | None:
    """The git commit of this checkout, "-dirty" where files were changed; None for an installed package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


class Journal:
    """`metrics`, one line of JSON per record, and the same numbers for TensorBoard in a folder.

    Drops the scores after `validated` and the losses after `iteration` that an earlier process wrote: they come again.
    """

    def __init__(self, metrics: Path, tensorboard: Path, iteration: int, validated: int) -> None:
        self.path = metrics
        lines = read_lines(self.path)
        earlier = [line for line in lines if line["iteration"] <= (validated if "scores" in line else iteration)]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(dumps(line) + "\n" for line in earlier), encoding="utf-8")
        self.board = SummaryWriter(str(tensorboard), purge_step=iteration + 1)

    def write(self, iteration: int, **record: Any) -> None:
        """Appends one line; UsageError where the disk refuses."""
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(dumps({"iteration": iteration, **record}) + "\n")
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}") from error
        for name, value in _flat(record):
            self.board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flushes TensorBoard's files."""
        self.board.close()


class Interval:
    """Losses and times between two lines of the journal."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []  # of each step, (T,); NaN where the batch had no labels for a task
        self.waited = 0.0  # seconds without a batch
        self.begin = time.perf_counter()

    def record(self, weights: dict[str, float]) -> dict[str, Any]:
        """The mean loss of each task (those of `weights`, in order) and their weighted sum, and where the time went.

        The mean is over the steps that had labels for the task. A task without such steps is left out.
        """
        seconds = time.perf_counter() - self.begin
        steps = len(self.losses)
        means = zip(weights, torch.stack(self.losses).nanmean(0).tolist(), strict=True)
        loss = {name: value for name, value in means if not math.isnan(value)}
        total = sum(weights[name] * value for name, value in loss.items())
        return {
            "loss": {"total": total, **loss},
            "seconds_per_step": seconds / steps,
            "data_wait": self.waited / seconds,  # share of the time
        }


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, float(value)
