"""Thinning, suppression and matching against plain loops."""

import itertools
import math

import numpy as np
import pytest

from edgemtl.tasks._boundary import Matching, counts, neighbours, suppress, thin


def guo_hall(mask):
    """Guo and Hall's thinning, pixel by pixel, as their paper (and bwmorph's documentation) states it."""
    mask = np.pad(mask, 1)
    while True:
        before = mask.copy()
        for first in (True, False):
            gone = []
            for i, j in zip(*np.nonzero(mask)):
                ring = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]
                x = [None] + [bool(mask[i + di, j + dj]) for di, dj in ring]
                x.append(x[1])
                crossings = sum(not x[2 * k - 1] and (x[2 * k] or x[2 * k + 1]) for k in (1, 2, 3, 4))
                n1 = sum(x[2 * k - 1] or x[2 * k] for k in (1, 2, 3, 4))
                n2 = sum(x[2 * k] or x[2 * k + 1] for k in (1, 2, 3, 4))
                side = (x[2] or x[3] or not x[8]) and x[1] if first else (x[6] or x[7] or not x[4]) and x[5]
                if crossings == 1 and 2 <= min(n1, n2) <= 3 and not side:
                    gone.append((i, j))
            for at in gone:
                mask[at] = False
        if (mask == before).all():
            return mask[1:-1, 1:-1]


def largest_matching(near, rights):
    """Kuhn's algorithm: an augmenting path from each left vertex in turn."""
    left_of = [None] * rights

    def grow(left, seen):
        for right in near[left]:
            if right not in seen:
                seen.add(right)
                if left_of[right] is None or grow(left_of[right], seen):
                    left_of[right] = left
                    return True
        return False

    return sum(grow(left, set()) for left in range(len(near)))


@pytest.mark.parametrize("seed", range(6))
def test_thinning_equals_the_paper(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((24, 31)) < rng.choice([0.3, 0.6, 0.85, 0.95])
    mask[4:12, 5:25] = True
    assert (thin(mask) == guo_hall(mask)).all()


def test_thinning_leaves_one_line_of_a_bar():
    bar = np.zeros((15, 40), bool)
    bar[5:10, 3:37] = True
    lines = thin(bar)
    assert lines.any(axis=0).sum() >= 28 and lines.sum(axis=0).max() == 1
    assert not thin(np.zeros((5, 5), bool)).any()


def test_suppression_keeps_the_crest_of_a_ridge_and_fades_at_the_border():
    y, x = np.mgrid[:40, :60].astype(np.float32)
    for angle in np.linspace(0, np.pi, 9):
        across = (x - 30) * np.cos(angle) + (y - 20) * np.sin(angle)
        ridge = suppress(np.exp(-(across**2) / 8).astype(np.float32))
        inner = np.s_[6:-6, 6:-6]
        assert (np.abs(across[inner])[ridge[inner] > 0.01] < 1).all(), angle
        assert (ridge[inner][np.abs(across[inner]) < 0.3] > 0.9).all(), angle
        assert not ridge[0].any() and not ridge[:, -1].any()


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5, 2.0, 4.4])
def test_neighbours_are_all_label_pixels_in_the_disc(radius):
    rng = np.random.default_rng(7)
    candidates, label = rng.random((2, 13, 17)) < 0.3
    near = neighbours(candidates, label, radius)
    pixels = np.argwhere(label)
    for row, at in zip(near, np.argwhere(candidates), strict=True):
        distance = np.hypot(*(pixels - at).T)
        assert sorted(row) == np.flatnonzero(distance <= radius).tolist()
        assert (np.diff(distance[row]) >= 0).all()


@pytest.mark.parametrize("seed", range(40))
def test_matching_stays_largest_while_vertices_come_and_go(seed):
    rng = np.random.default_rng(seed)
    lefts, rights = rng.integers(1, 13, 2)
    near = [np.flatnonzero(rng.random(rights) < rng.choice([0.1, 0.2, 0.5])).tolist() for _ in range(lefts)]
    matching, present = Matching(near, int(rights)), set()
    for left in rng.integers(lefts, size=60).tolist():
        (matching.remove if left in present else matching.add)(left)
        present ^= {left}
        assert matching.size == largest_matching([near[k] for k in present], rights)


def test_matching_equals_exhaustive_search():
    rng = np.random.default_rng(0)
    for _ in range(20):
        graph = rng.random((4, 5)) < 0.35
        best = max(sum(graph[k, r] for k, r in enumerate(order)) for order in itertools.permutations(range(5), 4))
        matching = Matching([np.flatnonzero(row).tolist() for row in graph], 5)
        for left in range(4):
            matching.add(left)
        assert matching.size == best


@pytest.mark.parametrize("seed", range(12))
def test_counts_equal_thresholding_thinning_and_matching_each_map(seed):
    rng = np.random.default_rng(seed)
    probability = rng.random((22, 27), np.float32)
    label = (rng.random((22, 27)) < 0.15).astype(np.uint8)
    label[rng.random((22, 27)) < 0.1] = 255
    thresholds, tolerance = rng.permutation(np.arange(1, 12) / 12), 0.07
    ridge, lines = suppress(probability), guo_hall(label == 1)
    targets = np.argwhere(lines)
    for k, done in enumerate(counts(probability, label, thresholds, tolerance).T):
        points = np.argwhere(guo_hall((ridge > thresholds[k]) & (label != 255)))
        reach = tolerance * math.hypot(22, 27)
        near = [[n for n, q in enumerate(targets) if math.dist(p, q) <= reach] for p in points]
        assert done.tolist() == [largest_matching(near, len(targets)), len(points), len(targets)]
