"""PASCAL-Context (Mottaghi et al., CVPR 2014) with five tasks, in the packaging of ASTMT (Maninis et al., CVPR 2019).

JPEGImages/*.jpg of any size up to 500x500 and ImageSets/Context/{train,val}.txt, with, for every frame:

- semseg: semseg/VOC12/*.png or else semseg/pascal-context/*.png, 0 background, 1..20 VOC's classes, 255 ignored.
- human_parts: human_parts/*.mat, PASCAL-Part's objects (Chen et al., CVPR 2014), whose 24 parts of a person become six;
  all of a frame without such parts is ignored.
- sal: sal_distill/*.png, salient above one half.
- normals: normals_distill/*.png (n = 2 v / 255 - 1), what a network trained on NYUD-v2 said, and so known only where
  pascal-context/trainval/*.mat has a class that NYUD-v2 has too.
- edge: the borders between the regions of pascal-context/trainval/*.mat, thinned.

A frame that lacks a task's file is ignored by that task. Nothing is ever written beside the data.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, Callable

import cv2
import numpy as np

from edgemtl.data import Named
from edgemtl.data._files import (
    check_array,
    check_size,
    directions,
    find,
    read_classes,
    read_image,
    read_mat,
    read_names,
    read_plane,
    unpacked_folder,
)
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError, needs
from edgemtl.ground.files import user_cache, write_json
from edgemtl.tasks import Size, Task
from edgemtl.tasks._boundary import thin
from edgemtl.tasks.edge import Edge
from edgemtl.tasks.human_parts import HumanParts
from edgemtl.tasks.normals import Normals
from edgemtl.tasks.sal import Saliency
from edgemtl.tasks.semseg import PASCAL_CLASSES, Semseg

NAME = "PASCAL-Context"
WHERE = (
    "PASCALContext.tar.gz is linked from the README of github.com/brdav/atrc, PASCAL_MT.tgz from"
    " Multi-Task-Learning-PyTorch's"
)
TASKS: dict[str, Task] = {
    "semseg": Semseg(classes=PASCAL_CLASSES),
    "human_parts": HumanParts(),
    "sal": Saliency(),
    "normals": Normals(),
    "edge": Edge(tolerance=0.0075, positive=0.95),
}
FRAMES = {"train": 4998, "val": 5105}  # of the official splits
LISTING = "ImageSets/Context/{split}.txt"
PHOTOGRAPHS = (".jpg", ".jpeg", ".png")
TERMS = "PASCAL VOC's photographs are Flickr's, for research; weights that learned from them are for research only."
UNPACKED = ("PASCALContext", "PASCAL_MT")  # what the archives' folders are called

PERSON = 15  # PASCAL's class number
PARTS = {  # PASCAL-Part's names, l for left and r for right, by our class ids
    1: "head hair mouth nose lear rear lebrow rebrow leye reye",
    2: "torso neck",
    3: "luarm ruarm",
    4: "llarm rlarm lhand rhand",
    5: "luleg ruleg",
    6: "llleg rlleg lfoot rfoot",
}
PART_IDS = {name: number for number, names in PARTS.items() for name in names.split()}
# Those of PASCAL-Context's 459 classes that occur by name among NYUD-v2's 894, and tvmonitor.
INDOOR = np.array([
    3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50, 51, 53, 55, 56,
    59, 61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104, 105, 107, 111, 113, 115, 122, 124,
    135, 141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202, 213,
    215, 216, 219, 220, 223, 225, 228, 230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261, 263, 269,
    272, 273, 275, 281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314, 315, 319, 323,
    329, 330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380, 383, 384, 397, 401, 403,
    405, 407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432, 440, 441, 442, 443, 444, 446, 454, 457,
])  # fmt: skip


def _human_parts(files: tuple[Path, ...], size: Size) -> np.ndarray:
    """Later objects and parts lie over earlier ones; a person without parts is background."""
    (path,) = files
    label = np.zeros(size, np.uint8)
    for kind, parts in _objects(path):
        for name, mask in parts if kind == PERSON else ():
            if name not in PART_IDS:
                raise UsageError(f"{path} holds the part {name!r}; known: {', '.join(sorted(PART_IDS))}")
            label[check_size(path, mask, size) > 0] = PART_IDS[name]
    return label if label.any() else TASKS["human_parts"].unlabelled(size)


def _normals(files: tuple[Path, ...], size: Size) -> np.ndarray:
    normal = check_size(files[0], directions(files[0], read_image(files[0])), size)
    normal[~np.isin(_regions(files[1], size), INDOOR)] = 0
    return normal


def _edge(files: tuple[Path, ...], size: Size) -> np.ndarray:
    regions = _regions(files[0], size).astype(np.float32)
    return thin(cv2.Laplacian(regions, cv2.CV_32F) != 0).astype(np.uint8)


READ: dict[str, Callable[[tuple[Path, ...], Size], np.ndarray]] = {
    "semseg": lambda files, size: read_classes(files[0]),
    "human_parts": _human_parts,
    "sal": lambda files, size: (read_plane(files[0]) > 127).astype(np.uint8),
    "normals": _normals,
    "edge": _edge,
}


class PascalContext(Named):
    """Frames of one split with the labels of some tasks."""

    def __init__(self, root: Path, split: str, tasks: tuple[str, ...], people_only: bool):
        for task in tasks:
            if task not in READ:
                raise UsageError(f"PASCAL-Context has no labels for {task!r}; it has {', '.join(READ)}")
        self.root, self.split, self.tasks = unpacked_folder(root, UNPACKED), split, tasks
        self.names = read_names(self.root / LISTING.format(split=split), NAME, WHERE)
        for kind, files in self.paths(0).items():
            if not any(all(file.is_file() for file in self.paths(k)[kind]) for k in range(len(self))):
                missing = next((file for file in files if not file.is_file()), files[0])
                raise UsageError(f"PASCAL-Context data: {missing} is missing; {WHERE}")
        if people_only:
            self.names = self._with_people()

    def paths(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files that the image and each task's label are read from, whether they exist or not."""
        name, root = self.names[index], self.root
        files: dict[str, tuple[Path, ...]] = {"image": (find(root / "JPEGImages", name, PHOTOGRAPHS),)}
        regions = find(root / "pascal-context/trainval", name, [".mat"])
        for task in self.tasks:
            if task == "semseg":
                voc, own = (find(root / "semseg" / folder, name, [".png"]) for folder in ("VOC12", "pascal-context"))
                files[task] = (own if own.is_file() and not voc.is_file() else voc,)
            elif task == "human_parts":
                files[task] = (find(root / "human_parts", name, [".mat"]),)
            elif task == "edge":
                files[task] = (regions,)
            else:
                picture = find(root / f"{task}_distill", name, [".png"])
                files[task] = (picture, regions) if task == "normals" else (picture,)
        return files

    def label(self, task: str, files: tuple[Path, ...], size: Size) -> np.ndarray:
        return READ[task](files, size) if all(map(Path.is_file, files)) else TASKS[task].unlabelled(size)

    def _with_people(self) -> list[str]:
        """The frames whose part labels show a person, looked up in the data set's own list, in ours, or in each file.

        Ours lies in the user's cache folder; where that cannot be written, the next time takes as long.
        """
        listing = self.root / f"ImageSets/Parts/{self.split}.txt"
        digest = hashlib.sha256("\n".join([str(self.root.resolve()), *self.names]).encode()).hexdigest()[:16]
        cache = user_cache() / "pascal_context" / f"{self.split}-{digest}.json"
        for file in (listing, cache):
            try:
                people = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(people, dict) and set(people) == set(self.names):
                break
        else:
            files = {name: find(self.root / "human_parts", name, [".mat"]) for name in self.names}
            present = {name: file for name, file in files.items() if file.is_file()}
            people = dict.fromkeys(self.names, [])
            for name in show.track(list(present), "looking for people"):
                people[name] = [kind for kind, _ in _objects(present[name])]
            if len(present) == len(files):
                with contextlib.suppress(UsageError):
                    write_json(cache, people)
        names = [name for name in self.names if PERSON in people[name]]
        if not names:
            raise UsageError(f"PASCAL-Context data: no frame of {self.split} shows a person, as people_only asks for")
        return names


def _regions(path: Path, size: Size) -> np.ndarray:
    """(H, W) class numbers 1..459 of PASCAL-Context."""
    regions = read_mat(path, "LabelMap")
    check_array(path, regions, regions.ndim == 2 and regions.dtype.kind in "uif", "one channel of class numbers")
    return check_size(path, regions, size)


def _objects(path: Path) -> list[tuple[int, list[tuple[str, np.ndarray]]]]:
    """Each object's class number and its parts, (name, mask), of one of PASCAL-Part's files."""
    anno = read_mat(path, "anno")
    try:
        things = [thing for about in _structs(anno) for thing in _structs(about["objects"])]
        return [
            (int(t["class_ind"].item()), [(str(p["part_name"].item()), p["mask"]) for p in _structs(t["parts"])])
            for t in things
        ]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not laid out as PASCAL-Part's files are: {error}") from None


def _structs(value: np.ndarray) -> list[Any]:
    """The records of a MATLAB struct array of any shape, or of the cells of one; none where it is empty."""
    if value.dtype.names:
        return list(value.ravel())
    return [struct for cell in value.ravel() for struct in _structs(cell)] if value.dtype == object else []


def open(root: Path | None, split: str, tasks: tuple[str, ...], *, people_only: bool = False) -> PascalContext:
    """The frames of a split ("train" or "val"); with `people_only` those whose part labels show a person.

    UsageError naming the file that is missing, or the package.
    """
    if root is None:
        raise UsageError(f"PASCAL-Context needs its folder: --data DIR or EDGEMTL_DATA; {WHERE}")
    with needs("pascal"):
        import PIL.Image  # noqa: F401
        import scipy.io  # noqa: F401
    return PascalContext(Path(root), split, tasks, people_only)
