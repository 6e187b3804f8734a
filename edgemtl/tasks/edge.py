"""Edges: the probability that a pixel lies on an object's boundary, scored by the boundary F-measure (odsF)."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from edgemtl.tasks import Size
from edgemtl.tasks._boundary import counts, flat_lines, matches, thin
from edgemtl.tasks._labels import IGNORED, Probability, Sums, nearest

QUICK = 9  # thresholds instead of 99


class Edge(Probability):
    """Probability, float32 (H, W); the label is uint8 0 or 1, 255 ignored.

    `tolerance`: how far a predicted pixel may lie from its label, in image diagonals (0.011 NYUD, 0.0075 PASCAL).
    `positive`: the loss weight of edge pixels, 1 - positive that of the others (0.8 NYUD, 0.95 PASCAL).
    `thresholds`: how many, evenly inside 0 to 1, the best F is sought over.
    """

    name: ClassVar[str] = "edge"
    title: ClassVar[str] = "Edges"
    headline: ClassVar[str] = "odsf"
    scores: ClassVar[dict[str, bool]] = {"odsf": True}
    words: ClassVar[str] = "probability of an edge"
    over: ClassVar[tuple[float, float]] = (0.6, 1.0)
    table: ClassVar[np.ndarray] = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)  # white on black
    marks: ClassVar[tuple[tuple[str, int], ...]] = (("edge", 255), ("no edge", 0))

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.011
    positive: Annotated[float, Field(gt=0, lt=1)] = 0.8
    thresholds: Annotated[int, Field(gt=0)] = 99

    def resize(self, label: np.ndarray, size: Size) -> np.ndarray:
        """The label at another size.

        To keep thin lines, a pixel of a smaller one is an edge if any pixel that it covers is, and ignored if all are.
        """
        label = np.asarray(label, np.uint8) + np.uint8(1)  # wraps: ignored 0, no edge 1, edge 2, so the largest wins
        for axis, length in enumerate(size):
            if length < label.shape[axis]:
                starts = np.ceil(np.arange(length) * label.shape[axis] / length - 0.5).astype(np.intp)
                label = np.maximum.reduceat(label, starts, axis=axis)
        return nearest(label, size) - np.uint8(1)

    def meter(self) -> "EdgeMeter":
        return EdgeMeter(self)

    def quick(self) -> "Edge":
        """With an eleventh of the thresholds, for each of which boundaries are matched."""
        return self.model_copy(update={"thresholds": QUICK})


class EdgeMeter(Sums):
    """`odsf`: the best F-measure of any one threshold over all images seen, in percent (optimal data set scale)."""

    SUMS = ("_counts", "_constant")

    def __init__(self, task: Edge) -> None:
        self._thresholds = np.arange(1, task.thresholds + 1) / (task.thresholds + 1)
        self._tolerance = task.tolerance
        self._counts = np.zeros((3, task.thresholds), np.int64)
        self._constant = np.zeros(3, np.int64)  # the same of a map with the same probability everywhere

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Adds an image, both (H, W); about 0.2 s at 240x320 and 99 thresholds."""
        assert prediction.shape == label.shape, (prediction.shape, label.shape)
        self._counts += counts(prediction, label, self._thresholds, self._tolerance)
        lines, judged = thin(label == 1), flat_lines(label.shape) & (label != IGNORED)
        self._constant += np.array([matches(judged, lines, self._tolerance), judged.sum(), lines.sum()])

    def scores(self) -> dict[str, float]:
        matched, predicted, labelled = self._counts
        if not labelled.any():
            return {"odsf": float("nan")}
        return {"odsf": float(np.max(200 * matched / (predicted + labelled)))}

    def constant(self) -> float:
        """The `odsf` of one probability everywhere, which thinning reduces to a line in the middle of the frame."""
        matched, predicted, labelled = self._constant.tolist()
        return 200 * matched / (predicted + labelled) if labelled else float("nan")


task = Edge
