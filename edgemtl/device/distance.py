"""Metres between two points of a depth map, and how far off they may be."""

import math

import numpy as np

from edgemtl.device.predictor import Predictor
from edgemtl.ground.errors import UsageError

Pixel = tuple[float, float]  # (row, column) in the frame, 0 to 1 each


def in_metres(predictor: Predictor, what: str) -> str:
    """The name of the task that gives metres; UsageError, naming `what` needs it, where an artifact has none."""
    for name, task in predictor.manifest.tasks.items():
        if task.ruler is not None and task.ruler[1] == "m":
            return name
    raise UsageError(f"{predictor.folder} predicts no metres, which {what} needs")


def distance(
    depth: np.ndarray, points: list[Pixel], field: float, rmse: float | None = None
) -> tuple[float, float | None]:
    """Metres between two points seen by a camera whose field of view is `field` degrees across, and their error.

    The error follows from the depth's, `rmse` metres, as if the two points' errors were independent. Points of one
    surface have similar errors, so that there it is less. None if the depth's error is not known.
    """
    height, width = depth.shape
    focal = width / 2 / math.tan(math.radians(field) / 2)
    rays, ends = [], []
    for row, column in points:
        y, x = row * height, column * width
        rays.append(np.array([(x - width / 2) / focal, (y - height / 2) / focal, 1.0]))
        ends.append(rays[-1] * max(0.0, float(depth[int(y), int(x)])))
    between = ends[1] - ends[0]
    metres = float(np.linalg.norm(between))
    if rmse is None or not metres:
        return metres, None
    along = between / metres
    return metres, rmse * math.hypot(float(along @ rays[0]), float(along @ rays[1]))
