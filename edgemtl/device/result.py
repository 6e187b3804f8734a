"""What a model predicted of one frame."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from edgemtl.device import draw
from edgemtl.device.display import no_display
from edgemtl.ground.errors import UsageError, unknown
from edgemtl.ground.files import replacing, write_json
from edgemtl.tasks import Task

View = Literal["tiles", "overlay", "plain"]
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class Result(Mapping[str, np.ndarray]):
    """Every task's prediction of one frame, by the task's name: (H, W) or (H, W, 3), as large as the frame.

    `depth` is in metres, class ids are uint8, normals are unit vectors, probabilities lie in 0..1. In a notebook a
    result displays itself.

    >>> from edgemtl import Predictor
    >>> import numpy as np
    >>> result = Predictor()(np.zeros((240, 320, 3), np.uint8))
    >>> sorted(result)
    ['depth', 'edge', 'normals', 'semseg']
    >>> result.at(160, 120).keys() == result.keys()
    True
    """

    def __init__(
        self,
        predictions: Mapping[str, np.ndarray],
        frame: np.ndarray,
        tasks: Mapping[str, Task],
        name: str = "frame",
        ages: Mapping[str, int] | None = None,
    ) -> None:
        self.frame, self.tasks, self.name = frame, tasks, name
        self.ages = dict(ages or dict.fromkeys(predictions, 0))  # how many frames ago each was computed
        self._predictions = dict(predictions)

    def __getitem__(self, task: str) -> np.ndarray:
        return self._predictions[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._predictions)

    def __len__(self) -> int:
        return len(self._predictions)

    def __repr__(self) -> str:
        height, width = self.frame.shape[:2]
        return f"<Result {self.name}: {', '.join(self)} at {height}x{width}>"

    def at(self, x: int, y: int) -> dict[str, Any]:
        """Each task's value at a pixel: metres, a class' name, a normal (x, y, z), a probability.

        `x` counts from the left, `y` from the top. None where the task knows nothing there. UsageError outside.
        """
        return {name: self.tasks[name].value(self[name][self._inside(x, y)]) for name in self}

    def describe(self, x: int, y: int) -> str:
        """The same in words, such as "2.31 m · chair · faces up (12° off)"."""
        return " · ".join(self.tasks[name].word(self[name][self._inside(x, y)]) for name in self)

    def _inside(self, x: int, y: int) -> tuple[int, int]:
        height, width = self.frame.shape[:2]
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(f"({x}, {y}) is outside the frame, which is {width} wide and {height} high")
        return y, x

    @property
    def legend(self) -> dict[str, list[tuple[str, tuple[int, int, int]]]]:
        """What the colours of each task's picture mean: (text, RGB), only of what is in this frame."""
        return {name: self.tasks[name].legend(self[name]) for name in self}

    def plot(self, *, view: View = "tiles", task: str | None = None) -> np.ndarray:
        """A picture, uint8 RGB: the frame and all tasks as tiles; one task over the frame; or one task alone, plain.

        `overlay` and `plain` take the first task where `task` names none.
        """
        if view == "tiles":
            shown = self._predictions if task is None else {task: self[self._known(task)]}
            return draw.tiles(self.frame, shown, dict(self.tasks), head=(self.name, ""))
        name = self._known(task or next(iter(self)))
        if view == "overlay":
            return draw.overlay(self.frame, self[name], self.tasks[name], head=(self.name, ""))
        return self.tasks[name].paint(self[name])

    def save(self, path: Path | str, *, view: View = "tiles", task: str | None = None) -> Path:
        """Writes the result as the suffix says, and gives the path back.

        .png, .jpg, .webp: what `plot` gives. .npy: one task's prediction (`task`, or the only one there is). .npz: all
        predictions. .json: what `summary` gives. UsageError for another suffix.
        """
        path, suffix = Path(path), Path(path).suffix.lower()
        if suffix in PICTURES:
            picture = cv2.cvtColor(self.plot(view=view, task=task), cv2.COLOR_RGB2BGR)
            with replacing(path) as temporary:
                if not cv2.imwrite(str(temporary), picture):
                    raise UsageError(f"{path}: OpenCV could not write it")
        elif suffix == ".npy":
            if task is None and len(self) > 1:
                raise UsageError(f"{path}: name one task, task=… ({', '.join(self)}); .npz takes all")
            array = self[self._known(task or next(iter(self)))]
            with replacing(path) as temporary:
                np.save(temporary, array)
        elif suffix == ".npz":
            with replacing(path) as temporary:
                np.savez_compressed(temporary, **self._predictions)  # type: ignore[arg-type]
        elif suffix == ".json":
            write_json(path, {"name": self.name, "size": self.frame.shape[:2], "tasks": self.summary()})
        else:
            raise unknown("kind of file", suffix or str(path), (*PICTURES, ".npy", ".npz", ".json"))
        return path

    def summary(self) -> dict[str, dict[str, float]]:
        """What occurs: percent of the pixels by class; of numbers the least, the median and the largest."""
        return {name: _occurs(self.tasks[name], self[name]) for name in self}

    def show(self, *, view: View = "tiles", task: str | None = None) -> None:
        """Opens a window with the picture and waits for a key. UsageError where there is no screen."""
        if problem := no_display():  # OpenCV would end the process
            raise UsageError(f"{problem}; save the picture: result.save('result.png')")
        cv2.imshow(self.name, cv2.cvtColor(self.plot(view=view, task=task), cv2.COLOR_RGB2BGR))
        cv2.waitKey(0)
        cv2.destroyWindow(self.name)

    def _known(self, task: str) -> str:
        if task not in self:
            raise unknown("task", task, self)
        return task

    def _repr_png_(self) -> bytes:
        return bytes(cv2.imencode(".png", cv2.cvtColor(self.plot(), cv2.COLOR_RGB2BGR))[1])


def _occurs(task: Task, prediction: np.ndarray) -> dict[str, float]:
    if np.issubdtype(prediction.dtype, np.integer):
        share = 100 * np.bincount(prediction.ravel(), minlength=len(task.class_names)) / prediction.size
        return {name: round(float(each), 2) for name, each in zip(task.class_names, share) if each}
    parts = [prediction] if prediction.ndim == 2 else list(np.moveaxis(prediction, -1, 0))
    names = [""] if len(parts) == 1 else ["x ", "y ", "z "][: len(parts)]
    numbers = {}
    for name, part in zip(names, parts):
        for word, at in (("least", 0), ("median", 50), ("largest", 100)):
            numbers[name + word] = round(float(np.percentile(part, at)), 4)
    return numbers
