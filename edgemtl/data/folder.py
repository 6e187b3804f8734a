"""Your own data set: a folder of pictures and labels, described by the lines of its dataset.toml; see docs/data.md."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.data import Named
from edgemtl.data import _description as lines
from edgemtl.data._files import read_names
from edgemtl.ground.errors import UsageError, unknown
from edgemtl.tasks import Size, Task

NAME = "folder"
WHERE = lines.HELP
LISTING = lines.FILE
FRAMES = {"train": None, "val": None}  # no size is prescribed
UNPACKED = ()


class Folder(Named):
    """Frames of one split with the labels of some tasks."""

    def __init__(self, root: Path, split: str, tasks: tuple[str, ...], description: lines.Description) -> None:
        self.root, self.images = root, description.images
        for task in tasks:
            if task not in description.by_task:
                raise UsageError(
                    f"{root / lines.FILE} has no labels for {task!r}; it has {', '.join(description.by_task)}"
                )
        self.labels = {task: description.by_task[task] for task in tasks}
        self.names = _names(root, split, description)
        for task, labels in self.labels.items():
            if not any(self._label(labels, name).is_file() for name in self.names):
                missing = self._label(labels, self.names[0])
                raise UsageError(
                    f"{missing} is missing, as {task} labels of all {len(self.names)} frames of {split} are"
                )

    def paths(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files that the image and each task's label are read from; those that may be missing and are, are not."""
        name = self.names[index]
        images = [self.root / lines.fill_pattern(pattern, name) for pattern in self.images]
        files: dict[str, tuple[Path, ...]] = {"image": (next((path for path in images if path.is_file()), images[0]),)}
        for task, labels in self.labels.items():
            path = self._label(labels, name)
            if path.is_file() or not labels.optional:
                files[task] = (path,)
        return files

    def label(self, task: str, files: tuple[Path, ...], size: Size) -> np.ndarray:
        return self.labels[task].read(files[0])

    def _label(self, labels: lines.Labels, name: str) -> Path:
        return self.root / lines.fill_pattern(labels.files, name)


def _names(root: Path, split: str, description: lines.Description) -> list[str]:
    """The names of a split's frames: from its text file, or else those that are held out (val) or not (train)."""
    if description.splits:
        if split not in description.splits:
            raise unknown("split", split, description.splits)
        return read_names(root / description.splits[split], NAME, WHERE)
    if split not in ("train", "val"):
        raise unknown("split", split, ("train", "val"))
    every = sorted({name for pattern in description.images for name in lines.frame_names(root, pattern)})
    if not every:
        raise UsageError(
            f"no picture in {root} is named as images in {lines.FILE} says: {' or '.join(description.images)}"
        )
    assert description.held_out is not None
    whole = any(pattern.count("*") > 1 for pattern in description.images)
    names = [name for name in every if (_lot(name, whole) < description.held_out) == (split == "val")]
    if not names:
        raise UsageError(
            f"held_out={description.held_out:g} of {root / lines.FILE} leaves {split} without any of {len(every)}"
            " frames; state another share, or splits"
        )
    return names


def _lot(name: str, whole: bool) -> float:
    """A number from 0 to 1 that depends only on the name; on its first folder, if folders stay `whole`."""
    drawn = name.split("/")[0] if whole else name
    return int.from_bytes(hashlib.sha256(drawn.encode()).digest()[:8], "big") / 2**64


def described(root: Path) -> tuple[dict[str, Task], dict[str, None]]:
    """The tasks and the splits of the data set in a folder, whose sizes nobody prescribes."""
    description = lines.read(root)
    return description.tasks, dict.fromkeys(description.splits or ("train", "val"))


def open(
    root: Path | None,
    split: str,
    tasks: tuple[str, ...],
    *,
    classes: Mapping[str, Sequence[str]] | None = None,
    description: Mapping[str, Any] | None = None,
) -> Folder:
    """The frames of a split with the labels of some tasks.

    `classes` are those that a network was trained for: UsageError where the folder has others. `description` has what
    dataset.toml would say, for a folder that has none.
    """
    if root is None:
        raise UsageError(f"the data set folder needs its folder: --data DIR or EDGEMTL_DATA; {WHERE}")
    stated = lines.read(Path(root)) if description is None else lines.parse(description, "data.options.description")
    lines.expected(stated.tasks, classes or {})
    return Folder(Path(root), split, tasks, stated)
