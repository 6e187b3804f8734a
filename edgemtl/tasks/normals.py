"""Surface normals: the direction every pixel's surface faces, scored by the mean angular error."""

import math
from typing import Any, ClassVar

import cv2
import numpy as np

from edgemtl.tasks import Size, Task
from edgemtl.tasks._labels import GREY, Colour, Sums, bilinear, nearest

SHORT = 1e-9  # what is no longer is what resizing leaves of zero
BLOCK = 1 << 15  # pixels
DIRECTIONS = ("right", "left", "up", "down", "to the camera", "away from it")  # of the largest component


class Normals(Task):
    """Unit vectors, float32 (H, W, 3): x right, y up, z towards the camera; the zero vector in a label is unknown.

    The map is channels first, (3, h, w).
    """

    name: ClassVar[str] = "normals"
    title: ClassVar[str] = "Surface normals"
    headline: ClassVar[str] = "mean"
    scores: ClassVar[dict[str, bool]] = {"mean": False, "median": False, "within_11.25": True}
    unit: ClassVar[str] = "deg"
    words: ClassVar[str] = "vectors x, y, z, whose direction counts"
    SHORTEST: ClassVar[float] = 0.5  # a vector of a label must be longer, or it means: not known

    @property
    def channels(self) -> int:
        return 3

    def resize(self, label: np.ndarray, size: Size) -> np.ndarray:
        return nearest(label, size)

    def flip(self, label: np.ndarray) -> np.ndarray:
        """The label mirrored left to right; a mirrored surface faces the other way in x."""
        return label[:, ::-1] * np.array([-1, 1, 1], label.dtype)

    def turn(self, label: np.ndarray, degrees: float) -> np.ndarray:
        """The vectors turned counter-clockwise about the axis towards the camera."""
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return label @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], label.dtype)

    def unlabelled(self, size: Size) -> np.ndarray:
        return np.zeros((*size, 3), np.float32)

    def valid(self, label: Any) -> Any:
        x, y, z = label[..., 0], label[..., 1], label[..., 2]
        square = x * x + y * y + z * z
        return (square > self.SHORTEST**2) & (square < math.inf)

    def decode(self, map: np.ndarray, size: Size) -> np.ndarray:
        planes = [bilinear(plane, size) for plane in map]
        normals = np.empty((*size, 3), np.float32)
        rows = max(1, BLOCK // size[1])
        for row in range(0, size[0], rows):  # as `_unit`, with what one step leaves still in the processor's cache
            x, y, z = block = [plane[row : row + rows] for plane in planes]
            length = x * x
            length += y * y
            length += z * z
            np.sqrt(length, out=length)
            length[~(length > SHORT)] = np.inf
            cv2.merge([part / length for part in block], normals[row : row + rows])
        return normals

    def paint(self, prediction: np.ndarray) -> np.ndarray:
        """Red is right, green up, blue towards the camera; grey where unknown."""
        return cv2.convertScaleAbs(prediction, alpha=127.5, beta=127.5)

    def legend(self, prediction: np.ndarray | None = None) -> list[tuple[str, Colour]]:
        rows: list[tuple[str, Colour]] = [
            ("right", (255, 128, 128)),
            ("left", (0, 128, 128)),
            ("up", (128, 255, 128)),
            ("down", (128, 0, 128)),
            ("to the camera", (128, 128, 255)),
        ]
        if prediction is None or not self.valid(prediction).all():
            rows.append(("unknown", GREY))
        return rows

    def differs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(H, W) bool: where the directions differ by more than five degrees."""
        return np.asarray((a * b).sum(-1) < math.cos(math.radians(5)))

    def value(self, prediction: np.ndarray) -> tuple[float, ...] | None:
        return tuple(map(float, prediction)) if self.valid(prediction) else None

    def word(self, value: np.ndarray) -> str:
        """The nearest of the five directions that a visible surface can face, and how far off it is."""
        if not self.valid(value):
            return "unknown direction"
        parts = [sign * float(part) for part in _unit(value) for sign in (1, -1)][:-1]  # in the order of DIRECTIONS
        nearest_way = int(np.argmax(parts))
        off = math.degrees(math.acos(min(1.0, parts[nearest_way])))
        return f"faces {DIRECTIONS[nearest_way]} ({off:.0f}° off)"

    def picture(self) -> dict[str, Any]:
        names = [text for text, _ in self.legend()]
        return {"kind": "vectors", "axes": [names[:2], names[2:4], [names[4], "away"]]}

    def ball(self, diameter: int) -> np.ndarray:
        """A ball seen from the camera."""
        axis = (np.arange(diameter, dtype=np.float32) + 0.5) * 2 / diameter - 1
        x, y = np.meshgrid(axis, -axis)
        inside = x**2 + y**2 <= 1
        vectors = np.dstack([x, y, np.sqrt(np.maximum(0, 1 - x**2 - y**2))]) * inside[..., None]
        return vectors.astype(np.float32)

    def tally(self, label: np.ndarray) -> np.ndarray:
        """Pixels by direction."""
        values = label[self.valid(label)]
        axis = np.abs(values).argmax(-1)
        backwards = np.take_along_axis(values, axis[:, None], -1)[:, 0] < 0
        return np.bincount(2 * axis + backwards, minlength=len(DIRECTIONS))

    def summary(self, tally: np.ndarray) -> str:
        order = [k for k in np.argsort(-tally) if tally[k]]
        return ", ".join(f"{DIRECTIONS[k]} {100 * tally[k] / tally.sum():.1f} %" for k in order)

    def meter(self) -> "NormalsMeter":
        return NormalsMeter(self)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(..., 3) the vectors scaled to length 1; zero stays zero, and so is what resizing leaves of it, 1e-15 or so."""
    length = np.sqrt(np.einsum("...c,...c->...", vectors, vectors))
    return vectors / np.where(length > SHORT, length, np.inf).astype(vectors.dtype)[..., None]


class NormalsMeter(Sums):
    """Angular error in degrees over all valid pixels seen: `mean`, `median` and the percentage `within_11.25`.

    The angle is 2 atan2(|p - l|, |p + l|), exact near 0 and 180 degrees where the arc cosine is not. The median comes
    from a histogram in steps of 0.01 degrees.
    """

    SUMS = ("_sum", "_near", "_histogram", "_directions")
    STEPS = 100  # a degree
    CELLS = 40  # along each axis of a cube in which the labels' directions are counted
    CANDIDATES = 100  # most frequent directions that are tried as the constant one

    def __init__(self, task: Normals) -> None:
        self._task = task
        self._sum = 0.0
        self._near = 0
        self._histogram = np.zeros(180 * self.STEPS + 1, np.int64)
        self._directions = np.zeros((4, self.CELLS**3))  # of each cell the number of labels and the sum of the vectors

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Adds vectors of any length, both (H, W, 3)."""
        assert prediction.shape == label.shape, (prediction.shape, label.shape)
        valid = self._task.valid(label)
        p, g = _unit(prediction[valid]), _unit(label[valid])
        angle = np.degrees(2 * np.arctan2(np.linalg.norm(p - g, axis=-1), np.linalg.norm(p + g, axis=-1)))
        self._sum += float(angle.sum(dtype=np.float64))
        self._near += int(np.count_nonzero(angle < 11.25))
        steps = np.minimum(angle * self.STEPS, 180 * self.STEPS).astype(np.intp)
        self._histogram += np.bincount(steps, minlength=len(self._histogram))
        x, y, z = np.clip((g.T + 1) * (self.CELLS / 2), 0, self.CELLS - 1).astype(np.intp)
        cell = (x * self.CELLS + y) * self.CELLS + z
        for total, values in zip(self._directions, (None, *g.T)):
            total += np.bincount(cell, values, minlength=len(total))

    def scores(self) -> dict[str, float]:
        pixels = int(self._histogram.sum())
        if not pixels:
            return dict.fromkeys(("mean", "median", "within_11.25"), math.nan)
        middle = int(np.searchsorted(np.cumsum(self._histogram), pixels / 2))
        return {
            "mean": self._sum / pixels,
            "median": (middle + 0.5) / self.STEPS,
            "within_11.25": 100 * self._near / pixels,
        }

    def constant(self) -> float:
        """The `mean` of the best constant: the labels' mean direction or a frequent one, to about 0.1 degrees."""
        count, *sums = self._directions[:, self._directions[0] > 0]
        if not count.size:
            return math.nan
        cells = _unit(np.stack(sums, 1))
        frequent = np.argsort(-count, kind="stable")[: self.CANDIDATES]
        candidates = np.concatenate([_unit(np.sum(sums, 1))[None], cells[frequent]])
        angles = np.degrees(np.arccos(np.clip(candidates @ cells.T, -1, 1)))
        return float((angles @ count).min() / count.sum())


task = Normals
