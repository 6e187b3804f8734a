"""Metres between two points of the picture that you click on, and by how much they may be wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edgemtl.device import draw, live
from edgemtl.device.camera import Source
from edgemtl.device.distance import Pixel, distance, in_metres
from edgemtl.device.play import play
from edgemtl.device.predictor import Predictor
from edgemtl.ground.errors import UsageError


@dataclass(frozen=True)
class Measured:
    """The medians over all frames; `off_m` is None where the artifact has no score of its depth."""

    frames: int
    fps: float
    metres: float | None
    off_m: float | None


def app() -> Callable[..., Measured]:
    """The app: a function `run(predictor, source, *, points, field, **how) -> Measured`."""
    return run


def run(
    predictor: Predictor,
    source: Source,
    *,
    points: Sequence[float] = (),
    field: float = 63.0,
    view: str = "",
    **how: Any,
) -> Measured:
    """Shows the distance of `points` (x, y, x, y in pixels); `field` is the camera's across in degrees, a Kinect's."""
    if not isinstance(points, (list, tuple)) or len(points) not in (0, 4) or not 0 < field < 170:
        raise UsageError(f"points={points}, field={field}: four numbers [x,y,x,y] and degrees below 170 are needed")
    height, width = source.size
    pixels = [((y + 0.5) / height, (x + 0.5) / width) for x, y in zip(points[::2], points[1::2])]
    if any(not (0 <= row < 1 and 0 <= column < 1) for row, column in pixels):
        raise UsageError(f"points={points}: a point lies outside the frame of {width}x{height}")
    shown = View(predictor, pixels, field)
    summary = play(predictor.maps, shown, source, **how)
    metres, off = (float(np.median(each)) if each else None for each in (shown.metres, shown.off))
    return Measured(summary.frames, summary.fps, metres, off)


class View(live.View):
    """The depth over the frame, and the line between the two points."""

    def __init__(self, predictor: Predictor, points: list[Pixel], field: float) -> None:
        self.predictor, self.points, self.field = predictor, points, field
        self.depth = in_metres(predictor, "measuring")
        self.task = predictor.manifest.tasks[self.depth]
        self.rmse = (predictor.manifest.scores.get(self.depth) or {}).get(self.task.headline)
        self.metres: list[float] = []
        self.off: list[float] = []
        self._frame = (1, 1)

    def draw(self, frame: np.ndarray, maps: live.Maps, reading: str) -> np.ndarray:
        """The page with what was measured in its foot line."""
        self._frame = frame.shape[:2]
        size = draw.cell(self._frame, 1)
        depth = self.predictor.decode({self.depth: maps[self.depth]}, size, frame=self._frame)[self.depth]
        foot = self.note or (self._measure(depth) if len(self.points) == 2 else "click two points · r record · q quit")
        self.picture = draw.overlay(frame, depth, self.task, head=("edgemtl · measure", reading), foot=foot)
        left, top = draw.GAP, draw.BAR + draw.TITLE
        at = [(left + int(column * size[1]), top + int(row * size[0])) for row, column in self.points]
        for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            for point in at:
                cv2.circle(self.picture, point, 5, colour, width, cv2.LINE_AA)
            if len(at) == 2:
                cv2.line(self.picture, at[0], at[1], colour, width, cv2.LINE_AA)
        return self.picture

    def click(self, x: int, y: int) -> None:
        """The first or second point; a third click begins anew."""
        if place := draw.position_in_frame((y, x), self._frame, 1):
            self.points = [*self.points, place] if len(self.points) < 2 else [place]
            self.metres, self.off = [], []

    def _measure(self, depth: np.ndarray) -> str:
        """The distance in this frame, in words."""
        metres, off = distance(depth, self.points, self.field, self.rmse)
        self.metres.append(metres)
        if off is None:
            return f"{metres:.2f} m; by how much that is off nobody has measured"
        self.off.append(off)
        return f"{metres:.2f} m ± {off:.2f} m (its depth is off by {self.rmse:.2f} m RMS on its test frames)"
