"""Two artifacts side by side on live frames, float and int8 say, and where they differ."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgemtl.device import draw, live, selftest
from edgemtl.device.camera import Source
from edgemtl.device.play import play
from edgemtl.device.predictor import Predictor
from edgemtl.ground.errors import UsageError

MARK = (255, 40, 40)


@dataclass(frozen=True)
class Compared:
    """`differing`: the share of pixels, task by task, in percent."""

    frames: int
    fps: float
    differing: dict[str, float]


def app() -> Callable[..., Compared]:
    """The app: a function `run(predictor, source, *, other, **how) -> Compared`."""
    return run


def run(predictor: Predictor, source: Source, *, other: str = "", **how: Any) -> Compared:
    """Runs the artifact in the folder `other` on the same frames; UsageError where it has none of the tasks."""
    if not other:
        raise UsageError("what is it to be compared with? --set other=ARTIFACT")
    second = selftest.open_tested(Path(other), None)
    tasks = [name for name in predictor.manifest.tasks if name in second.manifest.tasks]
    if not tasks:
        raise UsageError(f"{other} and {predictor.folder} have no task in common")
    shown = View(predictor, second, tasks)
    infer = lambda frame: predictor.maps(frame) | {f"other {n}": m for n, m in second.maps(frame).items()}  # noqa: E731
    summary = play(infer, shown, source, **how)
    return Compared(
        summary.frames, summary.fps, {name: float(np.mean(shares)) for name, shares in shown.differing.items()}
    )


class View(live.View):
    """The frame with the differences marked, and one task's prediction of each; digits choose the task."""

    def __init__(self, first: Predictor, second: Predictor, tasks: list[str]) -> None:
        self.both, self.tasks, self.selected = (first, second), tasks, tasks[0]
        self.differing: dict[str, list[float]] = {name: [] for name in tasks}

    def draw(self, frame: np.ndarray, maps: live.Maps, reading: str) -> np.ndarray:
        """The page of three."""
        size = draw.cell(frame.shape[:2], 3)
        marked, shown = cv2.resize(frame, size[::-1]), {}
        for name in self.tasks:
            task = self.both[0].manifest.tasks[name]
            a, b = (
                by.decode({name: maps[prefix + name]}, size, frame=frame.shape[:2])[name]
                for by, prefix in zip(self.both, ("", "other "))
            )
            apart = task.differs(a, b)
            self.differing[name].append(100 * float(apart.mean()))
            if name == self.selected:
                marked[apart] = MARK
                about = [f"{task.title}: {by.manifest.target} {by.manifest.precision}" for by in self.both]
                shown = dict(zip(about, (a, b)))
        foot = self.note or " · ".join(f"{name} {each[-1]:.2f} % apart" for name, each in self.differing.items())
        tasks = dict.fromkeys(shown, self.both[0].manifest.tasks[self.selected])
        self.picture = draw.tiles(marked, shown, tasks, head=("edgemtl · compare", reading), foot=foot, named=True)
        return self.picture

    def press(self, key: str) -> np.ndarray | None:
        """A digit chooses the task, from the next frame on."""
        if key in "123456789" and int(key) <= len(self.tasks):
            self.selected = self.tasks[int(key) - 1]
        return None
