"""What the maps say at one point, in words: metres, class, the way a surface faces."""

import math
from collections.abc import Mapping

import numpy as np

from edgemtl.tasks import Task

WAYS = {"right": (0, 1), "left": (0, -1), "up": (1, 1), "down": (1, -1), "to the camera": (2, 1)}  # axis and sign


def words(tasks: Mapping[str, Task], predictions: Mapping[str, np.ndarray], row: int, column: int) -> str:
    """Every prediction's value at a pixel, such as "2.31 m · chair · faces up (12°)"."""
    return " · ".join(word(tasks[name], prediction[row, column]) for name, prediction in predictions.items())


def word(task: Task, value: np.ndarray) -> str:
    """One value of a task's prediction."""
    if task.name == "depth":
        return f"{value:.2f} m" if value > 0 else "unknown depth"
    if task.name == "normals":
        return _way(value)
    if np.issubdtype(value.dtype, np.integer):
        rows = task.legend(np.array([[value]], value.dtype))
        return rows[0][0] if rows else f"{task.title.lower()} {value}"
    return f"{task.title.lower()} {100 * value:.0f} %"


def _way(normal: np.ndarray) -> str:
    """The nearest of the five directions that a visible surface can face, and how far off it is."""
    length = float(np.linalg.norm(normal))
    if length < 0.5:
        return "unknown direction"
    name, (axis, sign) = max(WAYS.items(), key=lambda way: way[1][1] * normal[way[1][0]])
    off = math.degrees(math.acos(min(1.0, max(-1.0, sign * float(normal[axis]) / length))))
    return f"faces {name} ({off:.0f}° off)"
