"""What every data set is, whatever file of `edgemtl/data/` opens it."""

from pathlib import Path
from typing import Protocol

import numpy as np


class DataSet(Protocol):
    """The frames of one split, with the labels of some tasks."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """`image`, uint8 RGB (H, W, 3), and each task's label of its size; a frame may lack some tasks' labels.

        UsageError naming the file that is missing or broken.
        """
        ...

    def name(self, index: int) -> str:
        """The frame's name."""
        ...

    def paths(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files that the image and each task's label are read from; none of what is rendered."""
        return {}
