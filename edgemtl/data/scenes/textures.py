"""Colours and patterns of surfaces, evaluated at any point of them."""

from dataclasses import dataclass

import numpy as np

from edgemtl.data.scenes.patterns import PATTERNS, noise

Rng = np.random.Generator


@dataclass(frozen=True)
class Paint:
    """How a surface looks: three linear RGB colours (3, 3) mixed by a pattern with a period of (u, v) metres."""

    colours: np.ndarray
    pattern: str = "plain"
    period: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)
    gloss: float = 0.0  # strength of the highlight
    glow: float = 0.0  # light given off, as a multiple of the colour


_ORDER = {name: i for i, name in enumerate(PATTERNS)}


class Palette:
    """The paints of a scene as arrays, looked up by paint number."""

    def __init__(self, paints: list[Paint]):
        self.colours = np.array([p.colours for p in paints], np.float32)
        self.pattern = np.array([_ORDER[p.pattern] for p in paints])
        self.period = np.array([p.period for p in paints], np.float32)
        self.shift = np.array([p.shift for p in paints], np.float32)
        self.gloss = np.array([p.gloss for p in paints], np.float32)
        self.glow = np.array([p.glow for p in paints], np.float32)

    def albedo(self, paint: np.ndarray, uv: np.ndarray, width: np.ndarray) -> np.ndarray:
        """(n, 3) linear RGB of paint numbers (n,) at surface coordinates (n, 2), in pixels `width` (n,) metres wide."""
        u, v = ((uv + self.shift[paint]) / self.period[paint]).T
        du, dv = (width[:, None] / self.period[paint]).T
        weight = np.empty(len(paint), np.float32)
        kinds = self.pattern[paint]
        for kind, pattern in enumerate(PATTERNS.values()):
            where = np.flatnonzero(kinds == kind)
            if len(where):
                weight[where] = pattern(u[where], v[where], du[where], dv[where])
        weight = (2 * np.clip(weight, 0, 1))[:, None]
        a, b, c = (self.colours[paint, k] for k in range(3))
        mixed = a + (b - a) * np.minimum(weight, 1) + (c - b) * np.maximum(weight - 1, 0)
        wear = 0.9 + 0.2 * noise(uv[:, 0] * 0.6, uv[:, 1] * 0.6)
        return mixed * wear[:, None]


def _linear(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) linear RGB of a hue, saturation and display brightness in 0..1."""
    wheel = np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return (value * (1 - saturation + saturation * wheel)) ** 2.2


def random_colour(rng: Rng) -> np.ndarray:
    """(3,) linear RGB of anything: greys, pastels, muted and strong colours."""
    kind = rng.random()
    if kind < 0.3:
        return _linear(rng.random(), rng.uniform(0, 0.08), rng.uniform(0.12, 0.95))
    if kind < 0.55:
        return _linear(rng.random(), rng.uniform(0.08, 0.35), rng.uniform(0.6, 0.95))
    if kind < 0.88:
        return _linear(rng.random(), rng.uniform(0.2, 0.55), rng.uniform(0.25, 0.75))
    return _linear(rng.random(), rng.uniform(0.55, 0.85), rng.uniform(0.4, 0.85))


def timber(rng: Rng) -> np.ndarray:
    """(3,) linear RGB of some wood, from pale birch to dark walnut."""
    return _linear(rng.uniform(0.05, 0.11), rng.uniform(0.25, 0.65), rng.uniform(0.22, 0.88))


def _shades(base: np.ndarray, rng: Rng, spread: float) -> np.ndarray:
    """(3, 3): three brightnesses of one colour."""
    return np.clip(
        base * np.array([[1.0], [1 - spread * rng.uniform(0.3, 0.6)], [1 - spread * rng.uniform(0.5, 1)]]), 0, 1
    )


def _paint(rng: Rng, colours: np.ndarray, pattern: str, u: float, v: float, gloss: float = 0.0) -> Paint:
    shift = (float(rng.uniform(0, 20)), float(rng.uniform(0, 20)))
    return Paint(colours, pattern, (float(u), float(v)), shift, gloss)


def plain(rng: Rng, base: np.ndarray | None = None, *, gloss: float = 0.0) -> Paint:
    """One colour, a little uneven."""
    return _paint(rng, _shades(random_colour(rng) if base is None else base, rng, 0.3), "plain", 1, 1, gloss)


def fabric(rng: Rng, base: np.ndarray | None = None) -> Paint:
    """Cloth: plain, woven, striped, checked, dotted or printed."""
    base = random_colour(rng) if base is None else base
    pattern = str(
        rng.choice(
            ["plain", "weave", "stripes", "checks", "plaid", "dots", "blobs", "clouded"],
            p=[0.25, 0.2, 0.14, 0.08, 0.1, 0.06, 0.09, 0.08],
        )
    )
    if pattern in ("plain", "weave", "clouded"):
        shades = _shades(base, rng, 0.6)
        period = rng.uniform(0.008, 0.03) if pattern == "weave" else 0.7
        return _paint(rng, shades, pattern, period, period)
    other = random_colour(rng)
    period = rng.uniform(0.3, 0.8) if pattern == "blobs" else rng.uniform(0.03, 0.22)
    return _paint(rng, np.array([base, (base + other) / 2, other]), pattern, period, period)


def wooden(rng: Rng) -> Paint:
    """Wood with its grain along u."""
    base = timber(rng)
    across = rng.uniform(0.015, 0.06)
    return _paint(rng, _shades(base, rng, 0.55), "wood", across * 6, across, rng.choice([0.0, 0.1, 0.3]))


def joinery(rng: Rng) -> Paint:
    """What furniture is made of: wood more often than not, else lacquer of any colour."""
    return wooden(rng) if rng.random() < 0.55 else plain(rng, gloss=rng.choice([0.0, 0.15, 0.4]))


def walling(rng: Rng) -> Paint:
    """A wall: paint of a light or of any colour, wallpaper, boards or bricks."""
    light = _linear(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.65, 0.97))
    base = light if rng.random() < 0.7 else random_colour(rng)
    kind = rng.random()
    if kind < 0.55:
        return plain(rng, base)
    if kind < 0.65:
        return _paint(rng, _shades(base, rng, 0.4), "clouded", 1.5, 1.5)
    if kind < 0.75:
        colours = _accented(base, random_colour(rng), rng.uniform(0.15, 0.7))
        return _paint(rng, colours, "stripes", rng.uniform(0.06, 0.5), 1)
    if kind < 0.82:
        period = rng.uniform(0.08, 0.3)
        return _paint(rng, _accented(base, random_colour(rng), rng.uniform(0.2, 0.8)), "dots", period, period)
    if kind < 0.9:
        brick = _linear(rng.uniform(0, 0.09), rng.uniform(0.05, 0.6), rng.uniform(0.4, 0.9))
        return _paint(rng, np.array([brick, brick * 0.7, np.full(3, rng.uniform(0.2, 0.7))]), "bricks", 0.25, 0.08)
    if kind < 0.95:
        period = rng.uniform(0.1, 0.4)
        return _paint(rng, _shades(base, rng, 0.5), "tiles", period, period, 0.2)
    return _paint(rng, _shades(timber(rng), rng, 0.7), "planks", rng.uniform(1.2, 3), rng.uniform(0.08, 0.2))


def flooring(rng: Rng) -> Paint:
    """A floor: planks, tiles, carpet, chequers or plain concrete."""
    kind = rng.random()
    if kind < 0.4:
        shades, long, wide = _shades(timber(rng), rng, 0.8), rng.uniform(0.8, 2.2), rng.uniform(0.07, 0.2)
        return _paint(rng, shades, "planks", long, wide, rng.choice([0.0, 0.2, 0.5]))
    base = random_colour(rng) * 0.8
    if kind < 0.6:
        period = rng.uniform(0.2, 0.7)
        return _paint(rng, _shades(base, rng, 0.7), "tiles", period, period, rng.choice([0.1, 0.5]))
    if kind < 0.7:
        period = rng.uniform(0.4, 1.2)
        return _paint(rng, _accented(base, random_colour(rng), 0.7), "checks", period, period, 0.2)
    if kind < 0.85:
        return _paint(rng, _shades(base, rng, 0.6), "weave", 0.02, 0.02)
    return _paint(rng, _shades(base, rng, 0.5), "clouded", 1.2, 1.2, rng.choice([0.0, 0.2]))


def artwork(rng: Rng) -> Paint:
    """A picture's canvas: an outlook, blots, or a design."""
    colours = np.array([random_colour(rng), random_colour(rng), random_colour(rng)])
    pattern = str(
        rng.choice(["outlook", "blobs", "clouded", "stripes", "checks", "dots"], p=[0.3, 0.3, 0.1, 0.1, 0.1, 0.1])
    )
    period = rng.uniform(0.2, 0.6) if pattern in ("outlook", "blobs", "clouded") else rng.uniform(0.06, 0.25)
    return _paint(rng, colours, pattern, period, period)


def outdoors(rng: Rng, height: float) -> Paint:
    """What a window `height` metres high shows: a bright day, or night."""
    if rng.random() < 0.2:
        dark = np.array([[0.01, 0.015, 0.04], [0.02, 0.02, 0.03], [0.004, 0.004, 0.006]])
        return Paint(dark, "outlook", (height * 2, height), (float(rng.uniform(0, 20)), 0.0), 0.5, 0.5)
    sky = _linear(rng.uniform(0.53, 0.63), rng.uniform(0, 0.45), 1.0)
    ground = _linear(rng.uniform(0.05, 0.4), rng.uniform(0, 0.5), rng.uniform(0.3, 0.7))
    colours, shift = np.array([sky, (sky + 1) / 2, ground]), (float(rng.uniform(0, 20)), 0.0)
    return Paint(colours, "outlook", (height * 2, height), shift, 0.3, float(rng.uniform(0.6, 2.0)))


def skin(rng: Rng) -> Paint:
    """Skin, from pale to dark."""
    return plain(rng, _linear(rng.uniform(0.04, 0.08), rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.95)))


def hair(rng: Rng) -> Paint:
    """Hair: black, brown, blond, red or grey."""
    base = _linear(rng.uniform(0.03, 0.12), rng.uniform(0, 0.6), rng.uniform(0.08, 0.75))
    return _paint(rng, _shades(base, rng, 0.8), "wood", 0.1, 0.02)


def leaf(rng: Rng) -> Paint:
    """Leaves: mostly green."""
    return plain(rng, _linear(rng.uniform(0.2, 0.42), rng.uniform(0.35, 0.8), rng.uniform(0.25, 0.7)), gloss=0.15)


def shining(rng: Rng, strength: float) -> Paint:
    """A lampshade, lit or (strength 0) not."""
    base = (
        _linear(rng.uniform(0.05, 0.15), rng.uniform(0.02, 0.5), rng.uniform(0.7, 1.0))
        if rng.random() < 0.7
        else random_colour(rng)
    )
    return Paint(_shades(base, rng, 0.2), glow=strength)


def _accented(base: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """(3, 3): one colour, with a share of another one where the pattern is."""
    return np.array([base, base, base * (1 - share) + other * share])
