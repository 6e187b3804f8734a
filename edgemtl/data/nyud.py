"""NYU Depth v2 (Silberman et al., ECCV 2012) in its two usual multi-task packagings.

One has images/*.png, normals/*.png (n = 2 v / 255 - 1) and edge/*.png, the other images/*.jpg, normals/*.npy and
edge/*.npy; both have segmentation/*.png (0 void, 1..40), depth/*.npy (metres) and gt_sets/{train,val}.txt.
"""

from pathlib import Path
from typing import Any, Callable

import cv2
import numpy as np

from edgemtl.errors import UsageError

WHERE = (
    "NYUDv2.tar.gz is linked from the README of github.com/brdav/atrc, NYUD_MT.tgz from Multi-Task-Learning-PyTorch's"
)
UNKNOWN_NORMAL = 0.5  # a shorter vector means: not known


def _semseg(raw: np.ndarray) -> np.ndarray:
    return np.where(raw == 0, 255, raw - 1).astype(np.uint8)


def _depth(raw: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(raw) & (raw > 0), raw, 0).astype(np.float32)


def _normals(raw: np.ndarray) -> np.ndarray:
    normal = raw.astype(np.float32) * np.float32(2 / 255) - 1 if raw.dtype == np.uint8 else raw.astype(np.float32)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return np.where(length > UNKNOWN_NORMAL, normal / np.maximum(length, UNKNOWN_NORMAL), 0).astype(np.float32)


def _edge(raw: np.ndarray) -> np.ndarray:
    return (raw > 0).astype(np.uint8)


FOLDERS: dict[str, tuple[str, tuple[str, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "semseg": ("segmentation", (".png",), _semseg),
    "depth": ("depth", (".npy",), _depth),
    "normals": ("normals", (".png", ".npy"), _normals),
    "edge": ("edge", (".png", ".npy"), _edge),
}


def read_image(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """The picture in a file, colours as RGB; UsageError where it is not one."""
    raw = cv2.imread(str(path), flags)
    if raw is None:
        raise UsageError(f"{path} is {'not an image' if path.is_file() else 'missing'}")
    return raw if raw.ndim == 2 else cv2.cvtColor(raw, cv2.COLOR_BGR2RGB)


class Nyud:
    """Frames of one split with the labels of some tasks."""

    def __init__(self, root: Path, split: str, tasks: tuple[str, ...]):
        listing = root / "gt_sets" / f"{split}.txt"
        if not listing.is_file():
            raise UsageError(f"NYUD-v2 data: {listing} is missing; {WHERE}")
        self.names = listing.read_text(encoding="utf-8").split()
        if not self.names:
            raise UsageError(f"NYUD-v2 data: {listing} names no frame")
        self.root, self.tasks = root, tasks
        self.files = {"image": self._find("images", (".png", ".jpg"))}
        for task in tasks:
            if task not in FOLDERS:
                raise UsageError(f"NYUD-v2 has no labels for {task!r}; it has {', '.join(FOLDERS)}")
            self.files[task] = self._find(*FOLDERS[task][:2])

    def _find(self, folder: str, endings: tuple[str, ...]) -> tuple[Path, str]:
        for ending in endings:
            if (self.root / folder / (self.names[0] + ending)).is_file():
                return self.root / folder, ending
        raise UsageError(f"NYUD-v2 data: {self.root / folder / (self.names[0] + endings[0])} is missing; {WHERE}")

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = {}
        for kind, (folder, ending) in self.files.items():
            path = folder / (self.names[index] + ending)
            raw = _array(path) if ending == ".npy" else read_image(path, _flags(kind))
            sample[kind] = FOLDERS[kind][2](raw) if kind in FOLDERS else raw
            if sample[kind].shape[:2] != sample["image"].shape[:2]:
                raise UsageError(f"{path} has size {sample[kind].shape[:2]}, its image {sample['image'].shape[:2]}")
        return sample


def _flags(kind: str) -> int:
    return cv2.IMREAD_COLOR if kind in ("image", "normals") else cv2.IMREAD_UNCHANGED


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def open(root: Path | None, split: str, tasks: tuple[str, ...]) -> Nyud:
    """The frames of a split ("train" or "val"); UsageError naming the file that is missing."""
    if root is None:
        raise UsageError(f"NYUD-v2 needs its folder: --data DIR or EDGEMTL_DATA; {WHERE}")
    return Nyud(Path(root), split, tasks)
