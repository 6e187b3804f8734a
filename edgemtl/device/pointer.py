"""What the maps say at one point, in words: metres, class, the way a surface faces."""

from collections.abc import Mapping

import numpy as np

from edgemtl.tasks import Task


def words(tasks: Mapping[str, Task], predictions: Mapping[str, np.ndarray], row: int, column: int) -> str:
    """Every prediction's value at a pixel, such as "2.31 m · chair · faces up (12°)"."""
    return " · ".join(tasks[name].word(prediction[row, column]) for name, prediction in predictions.items())
