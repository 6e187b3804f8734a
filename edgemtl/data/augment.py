"""Joint augmentation of a frame and its labels: scale, crop, flip, colour; every random draw comes from `rng`."""

from typing import Any

import cv2
import numpy as np

from edgemtl.recipe import Augment
from edgemtl.tasks import Size, Task

Sample = dict[str, Any]  # "image" (H, W, 3) uint8 RGB and a label per task
IGNORED = 255
CROP_TRIES = 10
FILL = (124, 116, 104)  # mean colour of ImageNet, zero after normalisation


def resize(sample: Sample, size: Size, tasks: dict[str, Task]) -> Sample:
    """The frame and its labels at another size; values are left alone."""
    done = {name: tasks[name].resize(label, size) for name, label in sample.items() if name != "image"}
    image = sample["image"]
    if image.shape[:2] != size:
        shrinks = image.shape[0] > size[0]
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return {"image": image, **done}


def pad(sample: Sample, size: Size, tasks: dict[str, Task]) -> Sample:
    """The frame centred on a canvas of at least `size`: mean colour around it, every label ignored there."""
    h, w = sample["image"].shape[:2]
    size = (max(h, size[0]), max(w, size[1]))
    if size == (h, w):
        return sample
    rows = slice((size[0] - h) // 2, (size[0] - h) // 2 + h)
    columns = slice((size[1] - w) // 2, (size[1] - w) // 2 + w)
    done = {"image": np.full((*size, 3), FILL, np.uint8)}
    done |= {name: tasks[name].unlabelled(size) for name in sample if name != "image"}
    for name, canvas in done.items():
        canvas[rows, columns] = sample[name]
    return done


def fit(sample: Sample, size: Size, tasks: dict[str, Task], factor: float = 1.0) -> Sample:
    """The frame brought inside `size` times `factor` with its aspect kept, then padded to at least `size`."""
    h, w = sample["image"].shape[:2]
    ratio = min(size[0] / h, size[1] / w) * factor
    return pad(resize(sample, (round(h * ratio), round(w * ratio)), tasks), size, tasks)


def crop(sample: Sample, size: Size, class_ratio: float, rng: np.random.Generator) -> Sample:
    """A random window of `size`, drawn again (ten times at most) while a class fills more than `class_ratio` of it."""
    h, w = sample["image"].shape[:2]
    if (h, w) == size:
        return sample
    for _ in range(CROP_TRIES):
        top, left = int(rng.integers(h - size[0] + 1)), int(rng.integers(w - size[1] + 1))
        window = (slice(top, top + size[0]), slice(left, left + size[1]))
        if "semseg" not in sample or class_ratio >= 1:
            break
        counts = np.bincount(sample["semseg"][window].ravel(), minlength=IGNORED + 1)[:IGNORED]
        if (counts > 0).sum() > 1 and counts.max() < class_ratio * counts.sum():
            break
    return {name: value[window] for name, value in sample.items()}


def flip(sample: Sample, tasks: dict[str, Task]) -> Sample:
    """The frame mirrored left to right; each task mirrors its label (normals turn their x)."""
    done = {name: tasks[name].flip(label) for name, label in sample.items() if name != "image"}
    return {"image": np.ascontiguousarray(sample["image"][:, ::-1]), **done}


def distort(image: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness +-32, contrast and saturation x0.5-1.5, hue +-18 degrees, each with this probability; uint8 RGB."""
    table = np.arange(256, dtype=np.float32)
    if rng.random() < probability:
        table = table + rng.uniform(-32, 32)
    if rng.random() < probability:
        table = table * rng.uniform(0.5, 1.5)
    image = cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8))
    saturation = rng.uniform(0.5, 1.5) if rng.random() < probability else None
    hue = rng.uniform(-18, 18) if rng.random() < probability else None
    if saturation is None and hue is None:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if saturation is not None:
        hsv[..., 1] = cv2.LUT(hsv[..., 1], np.clip(np.arange(256) * saturation, 0, 255).astype(np.uint8))
    if hue is not None:  # OpenCV counts hue in steps of two degrees
        hsv[..., 0] = cv2.LUT(hsv[..., 0], ((np.arange(256) + round(hue / 2)) % 180).astype(np.uint8))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def augment(sample: Sample, size: Size, options: Augment, tasks: dict[str, Task], rng: np.random.Generator) -> Sample:
    """A random view of `size` of the frame and its labels; enlarging by s brings everything s times nearer."""
    factor = float(rng.uniform(*options.scale))
    sample = fit(sample, size, tasks, factor)
    sample = {n: v if n == "image" else tasks[n].zoom(v, factor) for n, v in sample.items()}
    sample = crop(sample, size, options.class_ratio, rng)
    if rng.random() < options.flip:
        sample = flip(sample, tasks)
    return sample | {"image": distort(np.ascontiguousarray(sample["image"]), options.colour, rng)}
