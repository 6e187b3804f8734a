"""Boundary precision and recall of one image at many thresholds: the Berkeley benchmark's measure as SEISM runs it.

Martin, Fowlkes and Malik, PAMI 2004 (one-to-one matching within a tolerance); Pont-Tuset and Marques, PAMI 2016, whose
SEISM suppresses the map across its ridges, then thresholds it, then thins it. This code differs from SEISM's MATLAB:

- SEISM solves a minimum-cost assignment in which an unmatched pixel costs 100 times the tolerance. This code matches as
  many pairs as possible, which is an upper bound on SEISM's count. Both are equal unless a chain of matches would have
  to move by more than an unmatched pixel costs.
- SEISM outlines the label's edge mask before thinning, which shifts thin lines by up to a pixel and doubles thick ones.
  This code thins the mask itself.
- SEISM reads the map from an 8-bit PNG. Here it is float.
"""

import math
from functools import cache
from typing import Iterable

import cv2
import numpy as np

from edgemtl.tasks import Size

# Guo and Hall's two sub-iterations as tables over the 3x3 neighbourhood, whose bits run clockwise from the upper left.
_NEIGHBOURS = np.array([[1, 2, 4], [128, 0, 8], [64, 32, 16]], np.float32)


def _keep(turned: bool) -> np.ndarray:
    """(256,) uint8: for each neighbourhood, 1 if its pixel stays in one sub-iteration of thinning."""
    bits = [(np.arange(256) >> k) & 1 == 1 for k in range(8)]
    x = [bits[k] for k in (3, 2, 1, 0, 7, 6, 5, 4)]  # anticlockwise from the east
    crossings = sum((~x[k] & (x[k + 1] | x[(k + 2) % 8])).astype(int) for k in (0, 2, 4, 6))
    pairs = sum((x[k] | x[k + 1]).astype(int) for k in (0, 2, 4, 6))
    shifted = sum((x[k + 1] | x[(k + 2) % 8]).astype(int) for k in (0, 2, 4, 6))
    fewest = np.minimum(pairs, shifted)
    side = (x[5] | x[6] | ~x[3]) & x[4] if turned else (x[1] | x[2] | ~x[7]) & x[0]
    removable = (crossings == 1) & (fewest >= 2) & (fewest <= 3) & ~side
    return (~removable).astype(np.uint8)


_KEEP = (_keep(turned=False), _keep(turned=True))


def thin(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the mask, thinned until nothing changes (Guo and Hall, CACM 1989), like MATLAB's bwmorph 'thin'."""
    thinned: np.ndarray = mask.astype(np.uint8)
    before = -1
    while (count := cv2.countNonZero(thinned)) != before:
        before = count
        for keep in _KEEP:
            around = cv2.filter2D(thinned, cv2.CV_8U, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
            thinned = cv2.bitwise_and(thinned, cv2.LUT(around, keep))
    return thinned > 0


def suppress(probability: np.ndarray) -> np.ndarray:
    """(H, W) float32: the probability where it is highest across the edge, 0 elsewhere; fading near the border.

    Second derivatives of the map, under a triangle filter of radius 4, give the direction across the edge. A pixel
    stays if 1.01 times its value reaches both neighbours one pixel away in that direction (Dollár and Zitnick, PAMI
    2015, SEISM's settings). In the 5 pixels next to the border, values fall to 0.
    """
    height, width = probability.shape
    triangle = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1], np.float32) / 25
    smooth = cv2.sepFilter2D(probability, cv2.CV_32F, triangle, triangle, borderType=cv2.BORDER_REFLECT)
    dy, dx = np.gradient(smooth)
    dyy, dxy = np.gradient(dy)
    dxx = np.gradient(dx, axis=1)
    rows, columns = np.nonzero(probability > 0)
    at = (rows, columns)
    turn = np.where(dxy[at] > 0, -1, 1)  # a sign of 0, as in SEISM, would spare every exactly horizontal ridge
    angle = np.arctan2(dyy[at] * turn, dxx[at] + 1e-5)
    across, down = np.cos(angle), np.sin(angle)
    value = probability[at]
    highest = np.ones(len(rows), bool)
    for step in (-1, 1):
        highest &= 1.01 * value >= _between(probability, rows + step * down, columns + step * across)
    border = max(1, min(5, height // 2, width // 2))
    inset = np.minimum(np.minimum(rows, height - 1 - rows), border) * np.minimum(
        np.minimum(columns, width - 1 - columns), border
    )
    ridge = np.zeros_like(probability)
    ridge[at] = value * highest * inset / border**2
    return ridge


def _between(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples of `image` (H, W), the border's values outside (cv2.remap rounds coordinates to 1/32)."""
    y, x = np.clip(y, 0, image.shape[0] - 1.001), np.clip(x, 0, image.shape[1] - 1.001)
    top, left = y.astype(np.intp), x.astype(np.intp)
    fy, fx = y - top, x - left
    flat = image.ravel()
    start = top * image.shape[1] + left
    upper = flat[start] * (1 - fx) + flat[start + 1] * fx
    start += image.shape[1]
    return upper * (1 - fy) + (flat[start] * (1 - fx) + flat[start + 1] * fx) * fy


class Matching:
    """A largest one-to-one matching between left and right vertices; it stays largest as left vertices come and go.

    `near[l]` lists the right vertices that left vertex l may be matched with. At first all left vertices are absent.
    """

    def __init__(self, near: list[list[int]], rights: int) -> None:
        self.size = 0
        self._near = near
        self._back: list[list[int]] = [[] for _ in range(rights)]
        for left, row in enumerate(near):
            for right in row:
                self._back[right].append(left)
        self._right_of = [-1] * len(near)
        self._left_of = [-1] * rights
        self._absent = set(range(len(near)))
        # Rights from which no free right can be reached. That lasts until one of their partners leaves: later arrivals
        # need not look there, which is what makes the whole sweep about linear.
        self._dead: set[int] = set()

    def add(self, left: int) -> None:
        """Adds an absent left vertex. Only a path from there can enlarge the matching, so one search is enough."""
        self._absent.remove(left)
        reached = _augment(left, self._near, self._right_of, self._left_of, self._dead)
        self.size += reached is None
        self._dead.update(reached or ())

    def remove(self, left: int) -> None:
        """Removes a left vertex. Its partner looks for another one, which again is the only search needed."""
        self._absent.add(left)
        right = self._right_of[left]
        if right < 0:
            return
        self._right_of[left] = self._left_of[right] = -1
        if right in self._dead:
            self._dead.clear()
        self.size -= _augment(right, self._back, self._left_of, self._right_of, self._absent) is not None


def _augment(
    start: int, near: list[list[int]], partner: list[int], other: list[int], barred: set[int]
) -> Iterable[int] | None:
    """Matches `start` along a shortest alternating path: None, or without one the far vertices that it reached.

    `partner` is indexed by vertices of the side of `start`, `other` by those of the far side; -1 is free.
    """
    came: dict[int, int] = {}
    queue = [start]
    for here in queue:
        for there in near[here]:
            if there in came or there in barred:
                continue
            came[there] = here
            if other[there] < 0:
                while there >= 0:
                    here = came[there]
                    partner[here], other[there], there = there, here, partner[here]
                return None
            queue.append(other[there])
    return came


def neighbours(candidates: np.ndarray, label: np.ndarray, radius: float) -> list[list[int]]:
    """For each candidate pixel the label pixels at most `radius` pixels away, nearest first.

    Both masks are (H, W) bool; pixels are numbered in row order within their mask.
    """
    reach = math.floor(radius)
    number = np.full((label.shape[0] + 2 * reach, label.shape[1] + 2 * reach), -1)
    number[reach : reach + label.shape[0], reach : reach + label.shape[1]][label] = np.arange(np.count_nonzero(label))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = dy**2 + dx**2
    disc = np.argsort(distance, axis=None, kind="stable")[: np.count_nonzero(distance <= radius**2)]
    offsets = (dy * number.shape[1] + dx).ravel()[disc]
    rows, columns = np.nonzero(candidates)
    numbers = number.ravel()[((rows + reach) * number.shape[1] + columns + reach)[:, None] + offsets]
    ends = np.cumsum((numbers >= 0).sum(1)).tolist()
    flat = numbers[numbers >= 0].tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends)]


@cache
def flat_lines(size: Size) -> np.ndarray:
    """(H, W) bool: the lines that suppressing and thinning leave of a map with one probability everywhere."""
    return thin(suppress(np.ones(size, np.float32)) > 0.5)


def matches(candidates: np.ndarray, lines: np.ndarray, tolerance: float) -> int:
    """How many pixels of two thin masks (H, W) bool can be matched within `tolerance`, a share of the diagonal."""
    near = neighbours(candidates, lines, tolerance * math.hypot(*lines.shape))
    matching = Matching(near, int(np.count_nonzero(lines)))
    for left in range(len(near)):
        matching.add(left)
    return matching.size


def counts(probability: np.ndarray, label: np.ndarray, thresholds: np.ndarray, tolerance: float) -> np.ndarray:
    """(3, thresholds) int: pixels matched, predicted and labelled at each threshold.

    `probability` (H, W) float, `label` (H, W) uint8 0, 1 or 255 (no pixel there counts), `tolerance` in diagonals.
    """
    ridge = suppress(np.asarray(probability, np.float32))
    ridge[label == 255] = 0
    lines = thin(label == 1)
    maps = [thin(ridge > threshold) for threshold in thresholds]
    candidates = np.logical_or.reduce(maps)
    labelled = int(np.count_nonzero(lines))
    matching = Matching(neighbours(candidates, lines, tolerance * math.hypot(*label.shape)), labelled)
    totals = np.zeros((3, len(thresholds)), np.int64)
    present = np.zeros(np.count_nonzero(candidates), bool)
    for k in np.argsort(thresholds)[::-1]:  # downwards, so that pixels mostly arrive
        now = maps[k][candidates]
        for left in np.flatnonzero(present & ~now).tolist():
            matching.remove(left)
        for left in np.flatnonzero(now & ~present).tolist():
            matching.add(left)
        present = now
        totals[:, k] = matching.size, np.count_nonzero(now), labelled
    return totals
