"""Data sets: one file each, NumPy and OpenCV only.

A file has `open(root, split, tasks)`, which gives a `DataSet`; what else it takes by name is a recipe's `data.options`.
"""

from edgemtl.records.dataset import DataSet


class Named(DataSet):
    """A data set that has a list of its frames' `names`."""

    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]
