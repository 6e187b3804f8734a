"""Brings frames to a network's size and its maps back, by one rule for training's scores, devices and demos.

A frame is stretched or padded. To pad it means to centre it on a canvas of the mean colour, which has the network's
aspect and at least its size, and to stretch the canvas. So a padded frame keeps its aspect and is never enlarged. The
artifact says which of both its network was trained for.
"""

import cv2
import numpy as np

from edgemtl.ground.errors import UsageError
from edgemtl.tasks import Fit, Size, Task

FILL = (124, 116, 104)  # mean colour of ImageNet, zero after normalisation


def fit(frame: np.ndarray, size: Size, how: Fit = "stretched") -> np.ndarray:
    """The frame at `size`, contiguous; UsageError where it is not a uint8 (H, W, 3) array."""
    array = isinstance(frame, np.ndarray)
    if not array or frame.dtype != np.uint8 or frame.shape[2:] != (3,) or not frame.size:
        got = f"{frame.dtype} {frame.shape}" if array else type(frame).__name__
        raise UsageError(f"a frame is a uint8 RGB array of shape (height, width, 3), got {got}")
    own = frame.shape[:2]
    whole = canvas(own, size, how)
    if whole != own:
        around = np.full((*whole, 3), FILL, np.uint8)
        around[window(own, whole)] = frame
        frame = around
    height, width = size
    if frame.shape[:2] != (height, width):
        shrinks = frame.shape[0] * frame.shape[1] > height * width
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(frame)


def predict(
    task: Task, map: np.ndarray, frame: Size, size: Size, how: Fit = "stretched", *, at: Size | None = None
) -> np.ndarray:
    """The task's prediction for a frame of size `frame` that was fitted into `size`, cut back to that frame alone.

    `at`: the size of the prediction, where it is not the frame's.
    """
    at = at or frame
    rows, columns = (
        max(wanted, round(whole * wanted / own)) for whole, wanted, own in zip(canvas(frame, size, how), at, frame)
    )
    return np.ascontiguousarray(task.decode(map, (rows, columns))[window(at, (rows, columns))])


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers of `count` frames, evenly spaced from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def canvas(frame: Size, size: Size, how: Fit) -> Size:
    """The size, in the frame's pixels, of what is stretched to `size`: the frame's own or a canvas' around it."""
    if how == "stretched":
        return frame[0], frame[1]
    factor = max(1.0, frame[0] / size[0], frame[1] / size[1])
    return max(frame[0], round(size[0] * factor)), max(frame[1], round(size[1] * factor))


def window(frame: Size, size: Size) -> tuple[slice, slice]:
    """The rows and columns that a frame of one size has in the middle of a canvas of at least the other."""
    starts = [max(0, (whole - length) // 2) for length, whole in zip(frame, size)]
    return slice(starts[0], starts[0] + frame[0]), slice(starts[1], starts[1] + frame[1])
