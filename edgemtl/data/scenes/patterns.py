"""Patterns of surfaces as functions of surface coordinates, smoothed where they are finer than a pixel."""

from functools import lru_cache
from typing import Callable

import numpy as np


@lru_cache(maxsize=1)
def _clouds() -> np.ndarray:
    """A (256, 256) tile of fractal noise whose values are spread evenly over 0..1."""
    n = 256
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)) * n
    spectrum = np.fft.fft2(np.random.default_rng(7).standard_normal((n, n))) / np.maximum(frequency, 3.0) ** 1.4
    field = np.fft.ifft2(spectrum).real.ravel()
    even = np.empty(n * n, np.float32)
    even[np.argsort(field, kind="stable")] = np.linspace(0, 1, n * n, dtype=np.float32)
    return even.reshape(n, n)


def noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Fractal noise in 0..1 at (u, v), repeating every 1 in both; bilinear."""
    clouds = _clouds()
    x, y = u * 256, v * 256
    fx, fy = np.floor(x), np.floor(y)
    i, j = fx.astype(np.int32) & 255, fy.astype(np.int32) & 255
    x, y = x - fx, y - fy
    right, below = (i + 1) & 255, (j + 1) & 255
    top = clouds[j, i] * (1 - x) + clouds[j, right] * x
    return top * (1 - y) + (clouds[below, i] * (1 - x) + clouds[below, right] * x) * y


def _toss(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A fixed random number in 0..1 for every pair of whole numbers."""
    mixed = (i.astype(np.int64) * 73856093) ^ (j.astype(np.int64) * 19349663)
    return (((mixed * 2654435761) >> 8) & 0xFFFF).astype(np.float32) / 65535


def _band(x: np.ndarray, blur: np.ndarray, share: float = 0.5) -> np.ndarray:
    """A square wave of period 1 that is 1 for a `share` of it, smoothed over `blur` periods (a pixel's width)."""
    sharp = np.clip((share / 2 - np.abs(x - np.round(x))) / np.maximum(blur, 1e-3) + 0.5, 0, 1)
    flat = np.clip(2 * blur - 0.5, 0, 1)
    return sharp * (1 - flat) + share * flat


# A pattern takes the surface coordinates and a pixel's width, both in periods, and gives a mixing weight in 0..1.
Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _blobs(u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    value = noise(u * 0.5, v * 0.5) * 3
    step = np.floor(value)
    return (step + np.clip((value - step - 0.9) * 10, 0, 1)).clip(0, 2) / 2


def _checks(u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    a, b = _band(u, du), _band(v, dv)
    return a + b - 2 * a * b


def _dots(u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    v2 = v + 0.5 * (np.round(u) % 2)
    blur = np.maximum(np.maximum(du, dv), 1e-3)
    sharp = np.clip((0.28 - np.hypot(u - np.round(u), v2 - np.round(v2))) / blur + 0.5, 0, 1)
    flat = np.clip(2 * blur - 0.5, 0, 1)
    return sharp * (1 - flat) + 0.25 * flat


def _tiles(u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    joint = np.maximum(_band(u, du, 0.03), _band(v, dv, 0.03))
    tone = 0.35 * _toss(np.floor(u), np.floor(v)) + 0.15 * noise(u * 0.3, v * 0.3)
    return tone + (1 - tone) * joint


def _bricks(u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    u = u + 0.5 * (row % 2)
    joint = np.maximum(_band(u, du, 0.05), _band(v, dv, 0.12))
    tone = 0.4 * _toss(np.floor(u), row) + 0.2 * noise(u * 0.4, v * 0.2)
    return tone + (1 - tone) * joint


def _planks(u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    u = u + 7.3 * _toss(row, row)
    column = np.floor(u)
    joint = np.maximum(_band(u, du, 0.006), _band(v, dv, 0.05))
    tone = 0.3 * _toss(row, column) + 0.35 * noise(u * 0.2, v * 0.7 + row * 0.37)
    return tone + (1 - tone) * joint


def _wood(u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    grain = 0.5 + 0.5 * np.sin(2 * np.pi * (v + 2.5 * noise(u * 0.06, v * 0.12)))
    fade = np.clip(1.5 - 3 * dv, 0, 1)
    return 0.6 * (grain * fade + 0.5 * (1 - fade)) + 0.3 * noise(u * 0.15, v)


def _weave(u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    fade = np.clip(1.5 - 3 * np.maximum(du, dv), 0, 1)
    return (
        0.4
        + 0.2 * fade * (np.sin(2 * np.pi * u) + np.sin(2 * np.pi * v)) * 0.7
        + 0.2 * (noise(u * 0.02, v * 0.02) - 0.5)
    )


def _outlook(u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    """Sky above hills or roofs; v = 0 is the middle of the picture, one period its height."""
    horizon = 0.5 * (noise(u * 0.15, 0 * v) - 0.6)
    sky = np.clip(0.45 - 0.6 * v, 0, 0.5) * noise(u * 0.2, v * 0.4)
    return np.where(v > horizon, sky, 0.65 + 0.35 * noise(u * 0.5, v * 0.7))


PATTERNS: dict[str, Pattern] = {
    "plain": lambda u, v, du, dv: 0.25 * noise(u * 0.3, v * 0.3),
    "clouded": lambda u, v, du, dv: noise(u, v),
    "blobs": _blobs,
    "stripes": lambda u, v, du, dv: _band(u, du),
    "checks": _checks,
    "plaid": lambda u, v, du, dv: 0.5 * _band(u, du, 0.35) + 0.5 * _band(v, dv, 0.35),
    "dots": _dots,
    "tiles": _tiles,
    "bricks": _bricks,
    "planks": _planks,
    "wood": _wood,
    "weave": _weave,
    "outlook": _outlook,
}
