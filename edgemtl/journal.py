"""What a run writes about itself: recipe.json, metrics.jsonl and TensorBoard's files."""

import json
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from edgemtl.errors import UsageError
from edgemtl.files import read_json, replacing, write_json
from edgemtl.recipe import Recipe

RECIPE = "recipe.json"
METRICS = "metrics.jsonl"
PACKAGES = ("edgemtl", "torch", "timm", "lightning-fabric", "safetensors", "numpy", "opencv-python-headless")


def begin(run: Path, recipe: Recipe) -> None:
    """Writes recipe.json: the resolved recipe, the versions and the commit it runs with."""
    write_json(run / RECIPE, {"recipe": recipe.model_dump(mode="json"), "versions": versions(), "commit": commit()})


def check_same(run: Path, recipe: Recipe) -> None:
    """UsageError naming the first key in which the run's recipe differs from `recipe`."""
    stored = read_json(run / RECIPE)
    stored = stored.get("recipe") if isinstance(stored, dict) else None
    difference = _difference(stored, json.loads(json.dumps(recipe.model_dump(mode="json"))))
    if difference:
        raise UsageError(
            f"{run} was started with another recipe: {difference}; resume with the same or choose another --run"
        )


def versions() -> dict[str, str]:
    """The versions of Python and of every package that has a say in the weights and is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of this checkout, "-dirty" where files were changed; None for an installed package."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


class Journal:
    """metrics.jsonl, one line per record, and the same numbers for TensorBoard.

    Of what a former process wrote, scores after `validated` and losses after `iteration` are dropped: they come again.
    """

    def __init__(self, run: Path, iteration: int, validated: int) -> None:
        self.path = run / METRICS
        lines = _lines(self.path)
        kept = [line for line in lines if line["iteration"] <= (validated if "scores" in line else iteration)]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=iteration + 1)

    def write(self, iteration: int, **record: Any) -> None:
        """Appends one line; UsageError where the disk refuses."""
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"iteration": iteration, **record}) + "\n")
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}") from error
        for name, value in _flat(record):
            self.board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flushes TensorBoard's files."""
        self.board.close()


class Interval:
    """Sums of losses and times between two lines of the journal."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.waited = 0.0  # seconds without a batch
        self.begin = time.perf_counter()

    def record(self, weights: dict[str, float]) -> dict[str, Any]:
        """The mean loss of each task (those of `weights`, in order) and their weighted sum, and where the time went."""
        seconds = time.perf_counter() - self.begin
        steps = len(self.losses)
        loss = dict(zip(weights, torch.stack(self.losses).mean(0).tolist(), strict=True))
        total = sum(weights[name] * value for name, value in loss.items())
        return {
            "loss": {"total": total, **loss},
            "seconds_per_step": seconds / steps,
            "data_wait": self.waited / seconds,  # share of the time
        }


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:  # the last line of a killed run may be half a line
            continue
    return found


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, float(value)


def _difference(stored: Any, wanted: Any, where: str = "recipe") -> str | None:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in stored if key not in wanted)]:
            found = _difference(stored.get(key), wanted.get(key), f"{where}.{key}")
            if found:
                return found
        return None
    return None if stored == wanted else f"its {where.removeprefix('recipe.')} is {stored!r}, not {wanted!r}"
