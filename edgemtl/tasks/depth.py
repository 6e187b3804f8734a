"""Depth: metres from the camera's plane to what every pixel shows, scored by the root mean squared error."""

import math
from functools import cache
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from edgemtl.tasks import Size, Task
from edgemtl.tasks._labels import BLACK, Colour, Sums, bilinear, colour, look_up, nearest, scale


class Depth(Task):
    """Metres, float32 (H, W); 0 in a label is unknown. `far_m` is where the colour scale ends, nothing else."""

    name: ClassVar[str] = "depth"
    title: ClassVar[str] = "Depth"
    headline: ClassVar[str] = "rmse"
    scores: ClassVar[dict[str, bool]] = {"rmse": False}
    unit: ClassVar[str] = "m"
    words: ClassVar[str] = "metres"
    pipeline: ClassVar[str] = "depth-estimation"

    FARTHEST: ClassVar[int] = 100  # no label of a room or a street lies beyond; millimetres taken for metres do

    far_m: Annotated[float, Field(gt=0)] = 10.0

    @property
    def channels(self) -> int:
        return 1

    def resize(self, label: np.ndarray, size: Size) -> np.ndarray:
        return nearest(label, size)

    def zoom(self, label: np.ndarray, factor: float) -> np.ndarray:
        return label / np.float32(factor)

    def unlabelled(self, size: Size) -> np.ndarray:
        return np.zeros(size, np.float32)

    def valid(self, label: Any) -> Any:
        return (label > 0) & (label < math.inf)

    def wrong(self, label: np.ndarray) -> str:
        far = label.max(initial=0, where=self.valid(label)) > self.FARTHEST
        return f"depths of more than {self.FARTHEST} m; metres are expected" if far else ""

    def decode(self, map: np.ndarray, size: Size) -> np.ndarray:
        return bilinear(map, size)

    def paint(self, prediction: np.ndarray) -> np.ndarray:
        """Viridis, near yellow and far violet; black where the depth is 0 (unknown)."""
        index = cv2.convertScaleAbs(prediction, alpha=254 / self.far_m)  # rounds, saturates at 255
        if prediction.min(initial=1) > 0:
            return look_up(index, np.concatenate([_table()[1:], _table()[255:]]))
        np.clip(index, 0, 254, out=index)
        index += 1
        index[~(prediction > 0)] = 0
        return look_up(index, _table())

    def legend(self, prediction: np.ndarray | None = None) -> list[tuple[str, Colour]]:
        metres = [self.far_m * quarter / 4 for quarter in range(5)]
        rows = [(f"{m:.3g} m", colour(_table()[1 + round(254 * k / 4)])) for k, m in enumerate(metres)]
        if prediction is None or not (prediction > 0).all():
            rows.append(("unknown", BLACK))
        return rows

    def differs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(H, W) bool: where the distances differ by more than a twentieth of the larger one."""
        return np.asarray(np.abs(a - b) > 0.05 * np.maximum(a, b))

    def value(self, prediction: np.ndarray) -> float | None:
        return float(prediction) if prediction > 0 else None

    def word(self, value: np.ndarray) -> str:
        return f"{value:.2f} m" if value > 0 else "unknown depth"

    def picture(self) -> dict[str, Any]:
        ticks = [[k / 4, f"{self.far_m * k / 4:.3g} m"] for k in range(5)]
        return {
            "kind": "numbers", "factor": 254 / self.far_m, "first": 1, "last": 254, "table": _table().tolist(),
            "unit": "m", "scale": 1, "digits": 2, "ticks": ticks,
        }  # fmt: skip

    @property
    def ruler(self) -> tuple[float, str]:
        return self.far_m, "m"

    def tally(self, label: np.ndarray) -> np.ndarray:
        """Pixels by centimetre, the last for all beyond the farthest."""
        far = self.FARTHEST * 100 + 1
        return np.bincount(np.minimum(label[self.valid(label)] * 100 + 0.5, far).astype(np.intp), minlength=far + 1)

    def summary(self, tally: np.ndarray) -> str:
        present, middle = np.flatnonzero(tally), np.searchsorted(tally.cumsum(), tally.sum() / 2)
        over = "over " * bool(tally[-1])
        far = min(present[-1] / 100, self.FARTHEST)
        return f"{present[0] / 100:.2f} to {over}{far:.2f} m, median {middle / 100:.2f}"

    def meter(self) -> "DepthMeter":
        return DepthMeter(self)


@cache
def _table() -> np.ndarray:
    table = scale(cv2.COLORMAP_VIRIDIS)[::-1].copy()
    table[0] = BLACK
    return table


class DepthMeter(Sums):
    """`rmse`: the root of the mean squared error over all valid pixels seen, metres; predictions below 0 count as 0."""

    SUMS = ("_squares", "_pixels", "_moments")

    def __init__(self, task: Depth) -> None:
        self._task = task
        self._squares = 0.0
        self._pixels = 0
        self._moments = np.zeros(2)  # sums of the labels and of their squares

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Adds metres, both (H, W)."""
        assert prediction.shape == label.shape, (prediction.shape, label.shape)
        valid = self._task.valid(label)
        error = np.maximum(prediction[valid], 0) - label[valid]
        self._squares += float(np.sum(np.square(error, dtype=np.float64)))
        self._pixels += error.size
        self._moments += label[valid].sum(dtype=np.float64), np.square(label[valid], dtype=np.float64).sum()

    def scores(self) -> dict[str, float]:
        return {"rmse": math.sqrt(self._squares / self._pixels) if self._pixels else math.nan}

    def constant(self) -> float:
        """`rmse` of the labels' mean everywhere: their standard deviation."""
        if not self._pixels:
            return math.nan
        mean, square = self._moments / self._pixels
        return math.sqrt(max(square - mean**2, 0))


task = Depth
