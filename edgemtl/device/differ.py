"""Where two predictions of one task differ by more than anybody should mind."""

import numpy as np

from edgemtl.tasks import Task

# From where on a difference is marked: a share of the larger value in metres, degrees of normals, of probabilities.
SHARE, DEGREES, PROBABILITY = 0.05, 5.0, 0.1


def differs(task: Task, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W) bool: where two predictions of a task differ by more than is marked."""
    if np.issubdtype(a.dtype, np.integer):
        return a != b
    if task.ruler is not None:
        return np.abs(a - b) > SHARE * np.maximum(np.abs(a), np.abs(b))
    if a.ndim == 3:
        return (a * b).sum(-1) < np.cos(np.radians(DEGREES))
    return np.abs(a - b) > PROBABILITY
