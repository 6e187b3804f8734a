"""Data sets: one file each, NumPy and OpenCV only.

A file has `open(root, split, tasks)`, which gives a `DataSet`; what else it takes by name is a recipe's `data.options`.
"""

from pathlib import Path

import numpy as np

from edgemtl.data._files import check_size, read_image
from edgemtl.records.dataset import DataSet
from edgemtl.tasks import Size


class Named(DataSet):
    """A data set of files that has a list of its frames' `names`, and reads one task's label at a time."""

    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        paths = self.paths(index)
        sample = {"image": read_image(paths.pop("image")[0])}
        size = sample["image"].shape[:2]
        for task, files in paths.items():
            sample[task] = check_size(files[0], self.label(task, files, size), size)
        return sample

    def label(self, task: str, files: tuple[Path, ...], size: Size) -> np.ndarray:
        """A task's label of a frame of this size, from its files."""
        raise NotImplementedError
