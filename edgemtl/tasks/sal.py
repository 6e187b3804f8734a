"""Saliency: the probability that a pixel belongs to what catches the eye, scored by the best F-measure."""

from typing import ClassVar, Literal

import cv2
import numpy as np

from edgemtl.tasks._labels import Probability, Sums, scale


class Saliency(Probability):
    """Probability, float32 (H, W); the label is uint8 0 or 1, 255 ignored.

    `outputs`: 1 for a network trained with a logit, 2 for one trained with a softmax over (not salient, salient).
    """

    name: ClassVar[str] = "sal"
    title: ClassVar[str] = "Saliency"
    headline: ClassVar[str] = "maxf"
    scores: ClassVar[dict[str, bool]] = {"maxf": True}
    words: ClassVar[str] = "probability of being salient"
    table: ClassVar[np.ndarray] = scale(cv2.COLORMAP_INFERNO)  # from black to pale yellow
    marks: ClassVar[tuple[tuple[str, int], ...]] = (("not salient", 0), ("50 %", 128), ("salient", 255))

    outputs: Literal[1, 2] = 1

    @property
    def channels(self) -> int:
        return self.outputs

    def meter(self) -> "SaliencyMeter":
        return SaliencyMeter()


class SaliencyMeter(Sums):
    """`maxf`: the best F-measure, beta^2 = 0.3, over the thresholds 0.05, 0.10 .. 0.95; global counts, percent."""

    SUMS = ("_counts",)
    BETA2 = 0.3
    THRESHOLDS = np.arange(1, 20, dtype=np.float32) / np.float32(20)

    def __init__(self) -> None:
        self._counts = np.zeros((2, len(self.THRESHOLDS) + 1), np.int64)  # [label, thresholds reached]

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Adds probabilities and 0, 1 or 255, both (H, W)."""
        assert prediction.shape == label.shape, (prediction.shape, label.shape)
        reached = np.searchsorted(self.THRESHOLDS, np.asarray(prediction, np.float32), side="right")
        for value in (0, 1):
            self._counts[value] += np.bincount(reached[label == value], minlength=self._counts.shape[1])

    def scores(self) -> dict[str, float]:
        above = np.cumsum(self._counts[:, :0:-1], axis=1)[:, ::-1]  # pixels at or above each threshold
        hit, predicted, salient = above[1], above.sum(0), int(self._counts[1].sum())
        if not self._counts.any():
            return {"maxf": float("nan")}
        # (1 + b) P R / (b P + R), multiplied out so that nothing is divided by zero
        f = (1 + self.BETA2) * hit / np.maximum(self.BETA2 * salient + predicted, 1e-9)
        return {"maxf": float(100 * f.max())}

    def constant(self) -> float:
        """`maxf` where everything is salient."""
        pixels, salient = int(self._counts.sum()), int(self._counts[1].sum())
        return 100 * (1 + self.BETA2) * salient / (self.BETA2 * salient + pixels) if pixels else float("nan")


task = Saliency
