"""Every task on live frames: a window, a browser, a video file, or some of them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from edgemtl.device import draw, live, play, rates
from edgemtl.device.camera import Source
from edgemtl.device.live import Summary
from edgemtl.device.predictor import Predictor
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import replacing
from edgemtl.tasks import Size

KEYS = "1-9 tasks · v view · space pause · s snapshot · r record · q quit"


def app() -> Callable[..., Summary]:
    """The app: a function `run(predictor, source, *, view, **how) -> Summary`."""
    return run


def run(predictor: Predictor, source: Source, *, view: Literal["tiles", "overlay"] = "tiles", **how: Any) -> Summary:
    """Shows every frame's predictions; see `play.play`, which takes the rest of the options."""
    headless = how.get("headless") or how.get("show") == "none"
    return play.play(predictor.maps, View(predictor, view, foot="" if headless else KEYS), source, **how)


class View(live.View):
    """What is drawn of a frame: which tasks, as tiles or as an overlay. Keys change it."""

    def __init__(self, predictor: Predictor, kind: str, foot: str = "") -> None:
        made = predictor.manifest
        self.predictor, self.kind, self.foot = predictor, kind, foot
        self.title = f"{made.recipe} · {made.target} {made.precision} · {predictor.session.device}"
        self.shown = dict.fromkeys(made.tasks, True)
        self.selected = next(iter(made.tasks))  # the overlay's task
        self._last: tuple[np.ndarray, live.Maps, str]
        self._known: dict[str, tuple[np.ndarray, Size, Size, np.ndarray]] = {}  # map, its sizes, its prediction

    @property
    def names(self) -> list[str]:
        """The tasks that are drawn."""
        return [n for n, on in self.shown.items() if on] if self.kind == "tiles" else [self.selected]

    def draw(self, frame: np.ndarray, maps: live.Maps, reading: str) -> np.ndarray:
        """The picture of one frame; `reading` is written at its top right."""
        self._last = frame, maps, reading
        tasks = self.predictor.manifest.tasks
        old = {name: f"{age} frame{'s' * (age > 1)} ago" for name, age in rates.ages(maps).items() if age}
        lines: dict[str, Any] = {"head": (self.title, reading), "foot": self.note or self.foot, "notes": old}
        names = self.names
        size = draw.cell(frame.shape[:2], 1 + len(names) if self.kind == "tiles" else 1)
        predictions = self._predictions({n: maps[n] for n in names}, size, frame.shape[:2])
        if self.kind == "tiles":
            self.picture = draw.tiles(frame, predictions, tasks, **lines)
        else:
            self.picture = draw.overlay(frame, predictions[self.selected], tasks[self.selected], **lines)
        return self.picture

    def _predictions(self, maps: live.Maps, size: Size, frame: Size) -> dict[str, np.ndarray]:
        """The maps' predictions; those of maps that are shown once more are known."""
        old = {n: known for n, (map, *at, known) in self._known.items() if map is maps.get(n) and at == [size, frame]}
        made = old | self.predictor.decode({n: map for n, map in maps.items() if n not in old}, size, frame=frame)
        self._known = {n: (map, size, frame, made[n]) for n, map in maps.items()}
        return {n: made[n] for n in maps}

    def again(self) -> np.ndarray | None:
        """The last frame's picture as it is to be now."""
        return None if self.picture is None else self.draw(*self._last)

    def press(self, key: str) -> np.ndarray | None:
        """The picture after a key (a digit, v or s), None where the key means nothing here."""
        names = list(self.shown)
        if key == "v":
            self.kind = "overlay" if self.kind == "tiles" else "tiles"
        elif key == "s":
            self.note = self._save()
        elif key in "123456789" and int(key) <= len(names):
            self.selected = names[int(key) - 1]
            if self.kind == "tiles":
                self.shown[self.selected] = not self.shown[self.selected]
        else:
            return None
        return self.again()

    def point(self, x: int, y: int) -> str:
        """What every task says at a pixel of the picture; empty beside the frame."""
        if self.picture is None:
            return ""
        frame, maps, _ = self._last
        size = frame.shape[:2]
        place = draw.position_in_frame((y, x), size, 1 + len(self.names) if self.kind == "tiles" else 1)
        if place is None:
            return ""
        at = draw.cell(size, 1 + len(maps))  # no larger than it is drawn, however large the frame
        predictions = self.predictor.decode(maps, at, frame=size)
        row, column = int(place[0] * at[0]), int(place[1] * at[1])
        tasks = self.predictor.manifest.tasks
        return " · ".join(tasks[name].word(values[row, column]) for name, values in predictions.items())

    def _save(self) -> str:
        path = Path(time.strftime("edgemtl-%Y%m%d-%H%M%S.png"))
        try:
            with replacing(path) as temporary:
                if self.picture is None or not cv2.imwrite(str(temporary), self.picture[..., ::-1]):
                    return f"cannot write {path}"
        except UsageError as error:
            return str(error)
        return f"saved {path.resolve()}"
