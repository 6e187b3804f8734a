"""The frames on which an artifact and torch are compared: real ones where they are at hand."""

from pathlib import Path

import numpy as np

from edgemtl.device.predictor import smooth_frames
from edgemtl.ground.errors import UsageError
from edgemtl.records.frames import spread
from edgemtl.records.recipe import Data, Recipe
from edgemtl.records.samples import load_samples


def frames_of(stated: Recipe, data: Path | None, count: int) -> tuple[str, list[np.ndarray]]:
    """Where the frames are from and up to `count` of them, spread over the split."""
    try:
        return f"{stated.data.name}, val split", _spread(stated.data, data, count)
    except (UsageError, ModuleNotFoundError):
        if data is not None:
            raise
    try:
        return "rendered scenes", _spread(Data(name="scenes"), None, count)
    except (UsageError, ModuleNotFoundError):  # there is no renderer on some machines
        return "smooth random frames", smooth_frames(stated.size, count)


def _spread(data: Data, root: Path | None, count: int) -> list[np.ndarray]:
    samples = load_samples(data, root, "val", {})
    return [samples[index]["image"] for index in spread(len(samples), count)]
