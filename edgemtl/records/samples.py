"""Reads the samples of a data set and checks that every label is one that its task allows."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.records.dataset import DataSet
from edgemtl.records.recipe import Data
from edgemtl.tasks import Task


class _Samples(DataSet):
    """A data set whose samples are those of another one, changed."""

    def __init__(self, samples: DataSet) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        return self.samples.name(index)

    def paths(self, index: int) -> dict[str, tuple[Path, ...]]:
        return self.samples.paths(index)


class Checked(_Samples):
    """The samples of a data set; reading one raises UsageError, naming its file, where a label cannot be right.

    Such a label has another size than its image, or values that its task does not have: class ids past the last,
    millimetres for metres.
    """

    def __init__(self, samples: DataSet, tasks: Mapping[str, Task]) -> None:
        super().__init__(samples)
        self.tasks = tasks

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sample = self.samples[index]
        size = sample["image"].shape[:2]
        for name, task in self.tasks.items():
            if name not in sample:
                continue
            if sample[name].shape[:2] != size:
                raise UsageError(f"{self._file(index, name)} has size {sample[name].shape[:2]}, its image {size}")
            if wrong := task.wrong(sample[name]):
                raise UsageError(f"{self._file(index, name)} holds {wrong}")
        return sample

    def _file(self, index: int, task: str) -> str:
        """The label's file; of data that has none, the frame and the task."""
        files = self.samples.paths(index)
        return str(files[task][0]) if files else f"the {task} label of {self.name(index)}"


class Held(_Samples):
    """The samples of a data set, read once and held in memory. Indexing a broken one raises its UsageError."""

    def __init__(self, samples: DataSet) -> None:
        super().__init__(samples)
        with ThreadPoolExecutor() as pool:  # decoders run outside Python's lock
            samples_read = pool.map(lambda index: _read(samples, index), range(len(samples)))
            self.held = list(show.track(samples_read, "reading frames", len(samples)))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sample = self.held[index]
        if isinstance(sample, UsageError):
            raise sample
        return dict(sample)


def _read(samples: DataSet, index: int) -> dict[str, np.ndarray] | UsageError:
    try:
        return samples[index]
    except UsageError as error:
        return error


def load_samples(data: Data, root: Path | None, split: str, tasks: Mapping[str, Task]) -> Checked:
    """The samples of a split with the labels of some tasks; UsageError where it cannot be had or is empty."""
    samples = data.open(root, split, tasks)
    if len(samples) == 0:
        raise UsageError(f"the {split} split of {data.name} is empty{f' in {root}' if root else ''}")
    return Checked(samples, tasks)
