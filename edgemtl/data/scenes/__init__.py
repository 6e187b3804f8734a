"""Rooms rendered on demand, with exact labels for all six tasks: an endless data set that needs no download.

Every pixel is labelled: semseg (CLASSES), human_parts (PASCAL's six parts), depth along the optical axis in metres
(rounded to 1/4096), normals of the ideal surface (a ball's, not its facets'), edge (1 pixel wide, on the nearer side of
instance and occlusion boundaries; walls are instances, so a room's corners are edges), sal (one object, see `salient`).

A frame depends on (seed, split, number, size) alone. On one machine and one set of versions it is the same to the last
bit, in any order and any process. On another kind of processor, or with another Embree, rounding may move single
pixels; another NumPy may draw other random numbers and so other rooms.

Needs embreex (Intel Embree's ray caster), which has wheels for Linux x86-64, Windows x86-64 and macOS, none for Linux
on ARM.
"""

import hashlib
import importlib.util
import zipfile
import zlib
from pathlib import Path
from typing import Sequence

import numpy as np

from edgemtl.data.scenes import room
from edgemtl.data.scenes.render import LABELS, Camera, Tracer, View, view
from edgemtl.data.scenes.room import CLASSES, Room
from edgemtl.ground.errors import UsageError, unknown
from edgemtl.ground.files import replacing, user_cache
from edgemtl.records.dataset import DataSet
from edgemtl.tasks import Size

__all__ = ["CLASSES", "Camera", "Room", "Samples", "View", "open"]
_SPLITS = ("train", "val")


def open(
    root: Path | None,
    split: str,
    tasks: tuple[str, ...],
    *,
    train: int = 2000,
    val: int = 100,
    seed: int = 0,
    size: Sequence[int] = (160, 224),
    cache: Path | str | bool | None = None,
) -> "Samples":
    """The frames of a split ("train" or "val") with the labels of `tasks`; `root` is not used.

    Frames are rendered when asked for. With `cache` (a folder, or True for the user's cache folder) they are kept
    there, all labels together. Raises UsageError for wrong options or where embreex is missing.
    """
    if split not in _SPLITS:
        raise unknown("split", split, _SPLITS)
    for task in tasks:
        if task not in LABELS:
            raise unknown("task", task, LABELS)
    if len(size) != 2 or any(not isinstance(n, int) or not 32 <= n <= 2048 for n in size):
        raise UsageError(f"size of scenes is {size!r}; it must be (height, width), whole numbers from 32 to 2048")
    for name, value, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise UsageError(f"{name} of scenes is {value!r}; it must be a whole number of at least {least}")
    if importlib.util.find_spec("embreex") is None:
        raise UsageError("the data set scenes needs embreex; install it with: pip install 'edgemtl[train]'")
    folder = user_cache() / "scenes" if cache is True else Path(cache) if cache else None
    return Samples(split, tasks, train if split == "train" else val, seed, (size[0], size[1]), folder)


class Samples(DataSet):
    """Rendered frames by number; safe in data loaders' workers, because nothing of Embree outlives a call."""

    def __init__(self, split: str, tasks: tuple[str, ...], count: int, seed: int, size: Size, cache: Path | None):
        self.split, self.tasks, self.count, self.seed, self.size = split, tasks, count, seed, size
        self.cache = cache / _generator() / f"seed{seed}-{size[0]}x{size[1]}" / split if cache else None

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        """The frame's name, such as train-00012."""
        return f"{self.split}-{i:05d}"

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """The image and the label of every task asked for."""
        sample = self._kept(i)
        if sample is None:
            sample = self.view(i).sample
            if self.cache is not None:
                with replacing(self.cache / f"{self.name(i)}.npz") as temporary:
                    np.savez_compressed(temporary, **sample)  # type: ignore[arg-type]
        return {name: sample[name] for name in ("image", *self.tasks)}

    def view(self, i: int) -> View:
        """Frame `i` rendered anew: all labels, instance numbers and the camera."""
        tracer, camera, rng = self._stage(i)
        return view(tracer, camera, rng)

    def camera(self, i: int) -> Camera:
        """The camera of frame `i`."""
        return self._stage(i)[1]

    def _stage(self, i: int) -> tuple[Tracer, Camera, np.random.Generator]:
        if not 0 <= i < self.count:
            raise IndexError(f"frame {i} of {self.count}")
        rng = np.random.default_rng((self.seed, _SPLITS.index(self.split), i))
        tracer = Tracer(room.random_room(rng))
        return tracer, _aim(tracer, self.size, rng), rng

    def _kept(self, i: int) -> dict[str, np.ndarray] | None:
        """The cached frame; None where there is none or it is broken."""
        if self.cache is None:
            return None
        try:
            with np.load(self.cache / f"{self.name(i)}.npz") as kept:
                return {name: kept[name] for name in ("image", *self.tasks)}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
            return None


def _aim(tracer: Tracer, size: Size, rng: np.random.Generator) -> Camera:
    """A camera held by somebody in the room: of some tries, the one that sees most."""
    space = tracer.room
    targets = [k for k, name in enumerate(space.semseg) if CLASSES[name] not in ("wall", "floor", "ceiling")]
    best, best_score = None, -np.inf
    for _ in range(5):
        place = np.array([*(rng.uniform(0.3, space.size[:2] - 0.3)), rng.uniform(0.9, min(1.9, space.size[2] - 0.4))])
        part = targets[int(rng.integers(len(targets)))] if targets else 0
        target = space.vertices[space.faces[space.part == part][0, 0]] + rng.normal(0, 0.25, 3)
        back = place - target
        back[2] = np.clip(back[2], *(np.hypot(*back[:2]) * np.array([-0.2, 0.65])))
        back = back / np.linalg.norm(back)
        right = np.cross((0.0, 0.0, 1.0), back)
        right /= np.linalg.norm(right)
        level = np.stack([right, np.cross(back, right), back], 1)
        roll = rng.normal(0, 0.03)
        c, s = np.cos(roll), np.sin(roll)
        rotation = level @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        focal = size[1] / 2 / np.tan(np.radians(rng.uniform(48, 78)) / 2)
        camera = Camera(size, float(focal), place, rotation)
        rays = camera.rays()[4::12, 4::12].reshape(-1, 3) @ rotation.T
        hits = tracer.cast(place, rays)
        near, middle = np.quantile(hits.depth, [0.02, 0.5])
        kinds = np.bincount(space.semseg[hits.part], minlength=len(CLASSES)) > 2
        score = kinds.sum() + 0.7 * middle - 20 * max(0.0, 0.5 - near)
        if score > best_score:
            best, best_score = camera, score
    assert best is not None
    return best


def _generator() -> str:
    """A short hash of the code that makes frames: those of another version are never mixed in."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem == "walk":  # makes clips of frames
            continue
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
