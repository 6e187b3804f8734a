"""What the tasks share: labels of small integers (255 ignored), colours, and the scores of class ids."""

from functools import cache
from typing import Any, ClassVar

import cv2
import numpy as np

from edgemtl.ground.errors import UsageError
from edgemtl.tasks import Size, Task

IGNORED = 255
BLACK = (0, 0, 0)
GREY = (128, 128, 128)
Colour = tuple[int, int, int]

# Greedily chosen in CIELAB, each as far as can be from those before it and from black, grey and white.
_COLOURS = np.frombuffer(
    bytes.fromhex(
        "4b87b4 00ff00 0000ff ff0000 ff1eb4 ffd200 007800 00ffd2 5a3cb4 ff8787 876900 f0a5ff b4ff78 871e5a"
        "e100ff 870f00 ff870f 96b478 ff005a 00e1ff ffc378 0087ff 008778 3c3c78 2d4b0f 96a500 c396b4 00ff78"
        "d2f000 693c1e d25ae1 004bff f069a5 1ec369 0fb400 f05a3c b48769 b4d2ff f0f087 a5f0d2"
    ),
    np.uint8,
).reshape(-1, 3)


def nearest(label: np.ndarray, size: Size) -> np.ndarray:
    """The label (H, W) or (H, W, C) at another size; each pixel's value is that of the pixel its centre falls into."""
    if label.shape[:2] == tuple(size):
        return label
    # INTER_NEAREST takes the upper left corner instead, half a pixel off the image's bilinear or area resizing.
    return cv2.resize(np.ascontiguousarray(label), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def bilinear(map: np.ndarray, size: Size) -> np.ndarray:
    """The map at another size as float32, (h, w) or (h, w, C), pixel centres aligned (align_corners=False)."""
    map = np.ascontiguousarray(map, np.float32)
    return map if map.shape[:2] == tuple(size) else cv2.resize(map, size[::-1], interpolation=cv2.INTER_LINEAR)


def look_up(index: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: for each pixel, the row of `table` (256, 3) with the number in `index` (H, W) uint8."""
    return cv2.applyColorMap(np.ascontiguousarray(index), np.ascontiguousarray(table[:, None]))


@cache
def scale(colour_map: int) -> np.ndarray:
    """(256, 3) uint8 RGB table of one of OpenCV's colour maps."""
    return np.ascontiguousarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], colour_map)[:, 0, ::-1])


def past(label: np.ndarray, values: int, what: str) -> str:
    """The values of a label that are neither below `values` nor IGNORED; empty where there are none."""
    largest = int(label.max(initial=0, where=label != IGNORED))
    return f"{what} {largest}; allowed: 0 to {values - 1}, {IGNORED} for ignored" if largest >= values else ""


def single_value(tally: np.ndarray, names: tuple[str, ...]) -> str | None:
    """The name of the one value that a tally has; None where it has none or several."""
    values = np.flatnonzero(tally)
    return names[values[0]] if len(values) == 1 and values[0] < len(names) else None


@cache
def palette(classes: int, background: bool = False) -> np.ndarray:
    """(256, 3) uint8 RGB: a colour for each class, the same for every number of classes; black for all other values.

    Class 0 is dark grey where it is the `background`. Past 40 classes the colours repeat, darker each time.
    """
    table = np.zeros((256, 3), np.uint8)
    index = np.arange(classes)
    table[:classes] = _COLOURS[index % len(_COLOURS)] * (0.6 ** (index // len(_COLOURS)))[:, None]
    if background:
        table[0] = 56
    return table


def colour(row: np.ndarray) -> Colour:
    """A table's row as a tuple of Python ints."""
    red, green, blue = row.tolist()
    return red, green, blue


class SmallIntegers(Task):
    """A task whose label is uint8 (H, W), 255 ignored."""

    def resize(self, label: np.ndarray, size: Size) -> np.ndarray:
        return nearest(label, size)

    def unlabelled(self, size: Size) -> np.ndarray:
        return np.full(size, IGNORED, np.uint8)

    def valid(self, label: Any) -> Any:
        return label != IGNORED


class ClassLabels(SmallIntegers):
    """A task whose label and prediction are uint8 class ids (H, W), 255 ignored; its map int class ids (h, w)."""

    words: ClassVar[str] = "class ids"
    pipeline: ClassVar[str] = "image-segmentation"
    headline: ClassVar[str] = "miou"
    scores: ClassVar[dict[str, bool]] = {"miou": True, "miou_present": True, "pixacc": True}
    unit: ClassVar[str] = "%"

    @property
    def channels(self) -> int:
        return len(self.class_names)

    def wrong(self, label: np.ndarray) -> str:
        return past(label, len(self.class_names), f"{self.name} value")

    def problem(self, map: np.ndarray) -> str | None:
        """Why a map cannot be right: it has a class id that does not exist, which decoding would turn into another."""
        if map.dtype.kind not in "iu":
            return f"{map.dtype}, not class ids"
        low, high = int(map.min()), int(map.max())
        wrong = low if low < 0 else high
        return None if 0 <= wrong < self.channels else f"class {wrong}; allowed: 0 to {self.channels - 1}"

    def decode(self, map: np.ndarray, size: Size) -> np.ndarray:
        return nearest(np.asarray(map).astype(np.uint8), size)

    def paint(self, prediction: np.ndarray) -> np.ndarray:
        return look_up(prediction.astype(np.uint8, copy=False), self._table())

    def legend(self, prediction: np.ndarray | None = None) -> list[tuple[str, Colour]]:
        rows = [(name, colour(row)) for name, row in zip(self.class_names, self._table())]
        if prediction is None:
            return [*rows, ("ignored", BLACK)]
        pixels = np.bincount(prediction.ravel(), minlength=256)
        return [row for row, count in zip(rows, pixels) if count] + [("ignored", BLACK)] * bool(pixels[IGNORED])

    def differs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(H, W) bool: where two predictions have different classes."""
        return np.asarray(a != b)

    def value(self, prediction: np.ndarray) -> str | None:
        return self.class_names[prediction] if prediction < self.channels else None

    def word(self, value: np.ndarray) -> str:
        rows = self.legend(np.array([[value]], np.uint8))
        return rows[0][0] if rows else f"{self.title.lower()} {value}"

    def summary(self, tally: np.ndarray) -> str:
        return f"{np.count_nonzero(tally[: self.channels])} of {self.channels} classes"

    def everywhere(self, tally: np.ndarray) -> str | None:
        return single_value(tally, self.class_names)

    def picture(self) -> dict[str, Any]:
        table = self._table()[: self.channels]
        return {"kind": "classes", "names": list(self.class_names), "table": table.tolist()}

    def meter(self) -> "ClassMeter":
        return ClassMeter(len(self.class_names))

    def _table(self) -> np.ndarray:
        return palette(len(self.class_names), self.class_names[0] == "background")


class Probability(SmallIntegers):
    """A task whose prediction and map are a probability, float32 (H, W); its label uint8 0 or 1, 255 ignored."""

    unit: ClassVar[str] = "%"
    table: ClassVar[np.ndarray]  # (256, 3) uint8 RGB: its colours, from 0 to 1
    marks: ClassVar[tuple[tuple[str, int], ...]]  # what some rows of the table mean, 0 and 255 among them

    @property
    def channels(self) -> int:
        return 1

    def paint(self, prediction: np.ndarray) -> np.ndarray:
        """In the colours of the table; grey where a label is ignored."""
        if prediction.dtype != np.uint8:
            return look_up(cv2.convertScaleAbs(prediction, alpha=255), self.table)
        return look_up(prediction, np.concatenate([self.table[[0, 255]], np.full((254, 3), GREY[0], np.uint8)]))

    def legend(self, prediction: np.ndarray | None = None) -> list[tuple[str, Colour]]:
        rows = [(text, colour(self.table[row])) for text, row in self.marks]
        label = prediction is not None and prediction.dtype == np.uint8
        ignored = prediction is None or (label and bool((prediction == IGNORED).any()))
        return rows + [("ignored", GREY)] * ignored

    def picture(self) -> dict[str, Any]:
        words = {row: text for text, row in self.marks}
        return {
            "kind": "numbers", "factor": 255, "first": 0, "last": 255, "table": self.table.tolist(),
            "unit": "%", "scale": 100, "digits": 0, "ticks": [[0, words[0]], [1, words[255]]],
        }  # fmt: skip

    def wrong(self, label: np.ndarray) -> str:
        return past(label, 2, f"{self.name} value")

    def decode(self, map: np.ndarray, size: Size) -> np.ndarray:
        return bilinear(map, size)

    def value(self, prediction: np.ndarray) -> float:
        return float(prediction)

    def word(self, value: np.ndarray) -> str:
        return f"{self.title.lower()} {100 * value:.0f} %"

    def summary(self, tally: np.ndarray) -> str:
        return f"{self.name} {100 * tally[1] / tally.sum():.1f} %" * bool(tally[1])

    def everywhere(self, tally: np.ndarray) -> str | None:
        return single_value(tally, (f"no {self.name}", self.name))


class Sums:
    """A meter that holds only sums over pixels, so that the meters of a split's parts add up to the split's."""

    SUMS: ClassVar[tuple[str, ...]]  # the attributes

    def add(self, other: "Sums") -> None:
        """Adds the sums of another meter of the same task."""
        for name in self.SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class ClassMeter(Sums):
    """Intersection over union and accuracy, in percent, over all labelled pixels seen.

    `miou` is the mean over all classes; a class that neither occurs nor is predicted counts 0. `miou_present` is the
    mean over the classes that occur in the labels. `pixacc` is the share of labelled pixels whose class is right.
    """

    SUMS = ("_hit", "_predicted", "_labelled")

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._hit, self._predicted, self._labelled = np.zeros((3, 256), np.int64)

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Adds a frame's class ids (H, W); UsageError where the label has a class that the task does not have."""
        assert prediction.shape == label.shape, (prediction.shape, label.shape)
        valid = label != IGNORED
        label, prediction = label[valid], prediction[valid]
        if wrong := past(label, self._classes, "class"):
            raise UsageError(f"a label holds {wrong}")
        self._labelled += np.bincount(label, minlength=256)
        self._predicted += np.bincount(prediction, minlength=256)
        self._hit += np.bincount(label[label == prediction], minlength=256)

    def scores(self) -> dict[str, float]:
        hit, predicted, labelled = (count[: self._classes] for count in (self._hit, self._predicted, self._labelled))
        if not labelled.any():
            return dict.fromkeys(("miou", "miou_present", "pixacc"), float("nan"))
        iou = 100 * hit / np.maximum(labelled + predicted - hit, 1)
        return {
            "miou": float(iou.mean()),
            "miou_present": float(iou[labelled > 0].mean()),
            "pixacc": float(100 * hit.sum() / labelled.sum()),
        }

    def constant(self) -> float:
        """The `miou` of predicting the most frequent class at every pixel: its share, over the number of classes."""
        pixels = int(self._labelled.sum())
        return float(100 * self._labelled.max() / pixels / self._classes) if pixels else float("nan")
