"""Joint augmentation of a frame and its labels: scale, turn, crop, flip, colour; every random draw comes from `rng`."""

from typing import Any

import cv2
import numpy as np

from edgemtl.records.frames import FILL, window
from edgemtl.records.recipe import Augment
from edgemtl.tasks import Size, Task

Sample = dict[str, Any]  # "image" (H, W, 3) uint8 RGB and a label per task
CROP_TRIES = 10


def resize_sample(sample: Sample, size: Size, tasks: dict[str, Task]) -> Sample:
    """The frame and its labels at another size, with the same values."""
    resized = {name: tasks[name].resize(label, size) for name, label in sample.items() if name != "image"}
    image = sample["image"]
    if image.shape[:2] != size:
        shrinks = image.shape[0] > size[0]
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return {"image": image, **resized}


def pad_sample(sample: Sample, size: Size, tasks: dict[str, Task]) -> Sample:
    """The frame centred on a canvas of at least `size`: mean colour around it, every label ignored there."""
    frame = sample["image"].shape[:2]
    size = (max(frame[0], size[0]), max(frame[1], size[1]))
    if size == frame:
        return sample
    padded = {"image": np.full((*size, 3), FILL, np.uint8)}
    padded |= {name: tasks[name].unlabelled(size) for name in sample if name != "image"}
    for name, canvas in padded.items():
        canvas[window(frame, size)] = sample[name]
    return padded


def _inside(sample: Sample, size: Size, factor: float = 1.0) -> Size:
    """The largest size of the frame's aspect that lies inside `size`, times `factor`."""
    h, w = sample["image"].shape[:2]
    ratio = min(size[0] / h, size[1] / w) * factor
    return round(h * ratio), round(w * ratio)


def crop(sample: Sample, size: Size, class_ratio: float, tasks: dict[str, Task], rng: np.random.Generator) -> Sample:
    """A random window of at most `size`, drawn again, ten times at most, while a class fills over `class_ratio`.

    The classes are those of the tasks that guide crops.
    """
    h, w = sample["image"].shape[:2]
    height, width = min(h, size[0]), min(w, size[1])
    if (h, w) == (height, width):
        return sample
    guides = [name for name in sample if name != "image" and tasks[name].guides_crops] if class_ratio < 1 else []
    for _ in range(CROP_TRIES):
        top, left = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
        view = (slice(top, top + height), slice(left, left + width))
        tallies = [tasks[name].tally(sample[name][view]) for name in guides]
        if all((tally > 0).sum() > 1 and tally.max() < class_ratio * tally.sum() for tally in tallies):
            break
    return {name: value[view] for name, value in sample.items()}


def flip(sample: Sample, tasks: dict[str, Task]) -> Sample:
    """The frame mirrored left to right; each task mirrors its label."""
    flipped = {name: tasks[name].flip(label) for name, label in sample.items() if name != "image"}
    return {"image": np.ascontiguousarray(sample["image"][:, ::-1]), **flipped}


def turn(sample: Sample, degrees: float, tasks: dict[str, Task]) -> Sample:
    """The frame turned counter-clockwise about its middle: mean colour in the corners, every label ignored there."""
    h, w = sample["image"].shape[:2]
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), degrees, 1.0)
    result = {"image": cv2.warpAffine(sample["image"], matrix, (w, h), borderValue=FILL)}
    for name, label in sample.items():
        if name != "image":
            fill = tasks[name].unlabelled((1, 1))[0, 0].tolist()
            turned = cv2.warpAffine(label, matrix, (w, h), flags=cv2.INTER_NEAREST, borderValue=fill)
            result[name] = tasks[name].turn(turned, degrees)
    return result


def distort(image: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness +-32, contrast and saturation x0.5-1.5, hue +-36 degrees, each with this probability; uint8 RGB."""
    table = np.arange(256, dtype=np.float32)
    if rng.random() < probability:
        table = table + rng.uniform(-32, 32)
    if rng.random() < probability:
        table = table * rng.uniform(0.5, 1.5)
    image = cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8))
    saturation = rng.uniform(0.5, 1.5) if rng.random() < probability else None
    hue = rng.uniform(-18, 18) if rng.random() < probability else None  # in OpenCV's steps of two degrees
    if saturation is None and hue is None:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if saturation is not None:
        hsv[..., 1] = cv2.LUT(hsv[..., 1], np.clip(np.arange(256) * saturation, 0, 255).astype(np.uint8))
    if hue is not None:
        hsv[..., 0] = cv2.LUT(hsv[..., 0], ((np.arange(256) + round(hue)) % 180).astype(np.uint8))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def augment(sample: Sample, size: Size, options: Augment, tasks: dict[str, Task], rng: np.random.Generator) -> Sample:
    """A random view of `size` of the frame and its labels; enlarging by s brings everything s times nearer.

    Padding comes last, so that it keeps the mean colour.
    """
    factor = float(rng.choice(options.scales) if options.scales else rng.uniform(*options.scale))
    sample = resize_sample(
        sample, _inside(sample, sample["image"].shape[:2] if options.native else size, factor), tasks
    )
    sample = {n: v if n == "image" else tasks[n].zoom(v, factor) for n, v in sample.items()}
    if options.turn:
        sample = turn(sample, float(rng.uniform(-options.turn, options.turn)), tasks)
    sample = crop(sample, size, options.class_ratio, tasks, rng)
    if rng.random() < options.flip:
        sample = flip(sample, tasks)
    image = distort(np.ascontiguousarray(sample["image"]), options.colour, rng)
    sample = pad_sample(sample | {"image": image}, size, tasks)
    for name in options.hide_empty:
        if name in sample and not np.any((sample[name] > 0) & tasks[name].valid(sample[name])):
            sample[name] = tasks[name].unlabelled(size)
    return sample
