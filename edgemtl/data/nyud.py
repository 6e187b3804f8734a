"""NYU Depth v2 (Silberman et al., ECCV 2012) in its two usual multi-task packagings.

One has images/*.png, normals/*.png (n = 2 v / 255 - 1) and edge/*.png, the other images/*.jpg, normals/*.npy and
edge/*.npy; both have segmentation/*.png (0 void, 1..40), depth/*.npy (metres) and gt_sets/{train,val}.txt.
"""

from pathlib import Path
from typing import Callable

import numpy as np

from edgemtl.data import Named
from edgemtl.data._files import (
    PICTURES,
    check_array,
    directions,
    find,
    read_array,
    read_image,
    read_names,
    read_numbers,
    unpacked_folder,
)
from edgemtl.ground.errors import UsageError
from edgemtl.tasks import Size, Task
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.edge import Edge
from edgemtl.tasks.normals import Normals
from edgemtl.tasks.semseg import NYUD_CLASSES, Semseg

NAME = "NYUD-v2"
WHERE = (
    "NYUDv2.tar.gz is linked from the README of github.com/brdav/atrc, NYUD_MT.tgz from Multi-Task-Learning-PyTorch's"
)
TASKS: dict[str, Task] = {
    "semseg": Semseg(classes=NYUD_CLASSES),
    "depth": Depth(),
    "normals": Normals(),
    "edge": Edge(),
}
FRAMES = {"train": 795, "val": 654}  # of the official splits
LISTING = "gt_sets/{split}.txt"
TERMS = "NYU Depth v2 is published for research; weights that learned from it are for research only."
UNPACKED = ("NYUDv2", "NYUD_MT")  # what the archives' folders are called


def _semseg(path: Path, raw: np.ndarray) -> np.ndarray:
    check_array(path, raw, raw.dtype == np.uint8 and raw.ndim == 2, "one channel of uint8")
    return np.where(raw == 0, 255, raw - 1).astype(np.uint8)


def _depth(path: Path, raw: np.ndarray) -> np.ndarray:
    check_array(path, raw, raw.dtype.kind == "f" and raw.ndim == 2, "one channel of metres as floats")
    return np.where(TASKS["depth"].valid(raw), raw, 0).astype(np.float32)


def _edge(path: Path, raw: np.ndarray) -> np.ndarray:
    check_array(path, raw, raw.ndim == 2, "one channel")
    return (raw > 0).astype(np.uint8)


FOLDERS: dict[str, tuple[str, tuple[str, ...], Callable[[Path, np.ndarray], np.ndarray]]] = {
    "semseg": ("segmentation", (".png",), _semseg),
    "depth": ("depth", (".npy",), _depth),
    "normals": ("normals", (".png", ".npy"), directions),
    "edge": ("edge", (".png", ".npy"), _edge),
}


READ = {"normals": read_image}  # the pictures that are no numbers


class Nyud(Named):
    """Frames of one split with the labels of some tasks."""

    def __init__(self, root: Path, split: str, tasks: tuple[str, ...]):
        self.root = unpacked_folder(root, UNPACKED)
        self.names = read_names(self.root / LISTING.format(split=split), NAME, WHERE)
        self.places = {"image": self._place("images", PICTURES)}
        for task in tasks:
            if task not in FOLDERS:
                raise UsageError(f"NYUD-v2 has no labels for {task!r}; it has {', '.join(FOLDERS)}")
            self.places[task] = self._place(*FOLDERS[task][:2])

    def _place(self, folder: str, endings: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
        """The folder and the endings of its files, the one of the first frame that has a file before the others."""
        files = (find(self.root / folder, name, endings) for name in self.names)
        usual = next((file.suffix.lower() for file in files if file.is_file()), None)
        if usual is None:
            missing = self.root / folder / (self.names[0] + endings[0])
            raise UsageError(f"NYUD-v2 data: {missing} is missing; {WHERE}")
        return self.root / folder, (usual, *(ending for ending in endings if ending != usual))

    def paths(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files that the image and each task's label are read from."""
        name = self.names[index]
        return {kind: (find(folder, name, ends),) for kind, (folder, ends) in self.places.items()}

    def label(self, task: str, files: tuple[Path, ...], size: Size) -> np.ndarray:
        (path,) = files
        raw = READ.get(task, read_numbers)(path) if path.suffix.lower() in PICTURES else read_array(path)
        return FOLDERS[task][2](path, raw)


def open(root: Path | None, split: str, tasks: tuple[str, ...]) -> Nyud:
    """The frames of a split ("train" or "val"); UsageError naming the file that is missing."""
    if root is None:
        raise UsageError(f"NYUD-v2 needs its folder: --data DIR or EDGEMTL_DATA; {WHERE}")
    return Nyud(Path(root), split, tasks)
