"""Fog over live video: what is far fades into grey, as the depth says."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from edgemtl.device import draw, live
from edgemtl.device.camera import Source
from edgemtl.device.distance import in_metres
from edgemtl.device.live import Summary
from edgemtl.device.play import play
from edgemtl.device.predictor import Predictor
from edgemtl.ground.errors import UsageError

COLOUR = (203, 208, 214)
KEYS = "+ - density · space pause · r record · q quit"


def app() -> Callable[..., Summary]:
    """The app: a function `run(predictor, source, *, density, **how) -> Summary`."""
    return run


def run(predictor: Predictor, source: Source, *, density: float = 0.4, **how: Any) -> Summary:
    """Shows every frame in fog; at 1 / `density` metres about two thirds of a colour are gone."""
    if not isinstance(density, (int, float)) or not density > 0:
        raise UsageError(f"density={density}: a number above 0 is needed")
    return play(predictor.maps, View(predictor, density), source, **how)


class View(live.View):
    """A frame in fog, alone on the picture."""

    def __init__(self, predictor: Predictor, density: float) -> None:
        self.predictor, self.density, self.depth = predictor, density, in_metres(predictor, "fog")

    def draw(self, frame: np.ndarray, maps: live.Maps, reading: str) -> np.ndarray:
        """The frame in fog."""
        size = draw.cell(frame.shape[:2], 1)
        depth = self.predictor.decode({self.depth: maps[self.depth]}, size, frame=frame.shape[:2])[self.depth]
        clear = np.exp(-self.density * depth)[..., None]
        shown = cv2.resize(frame, size[::-1]) * clear + (1 - clear) * np.array(COLOUR, np.float32)
        foot = self.note or f"density {self.density:.2f} per metre · {KEYS}"
        self.picture = draw.page("Fog", shown.astype(np.uint8), head=("edgemtl", reading), foot=foot)
        return self.picture

    def press(self, key: str) -> np.ndarray | None:
        """+ and - change the density, from the next frame on."""
        self.density *= {"+": 1.25, "-": 0.8}.get(key, 1.0)
        return None
