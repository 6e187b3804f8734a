"""Lamps, plants and small objects. Each stands on its own origin (metres), its front towards -y."""

from typing import Callable

import numpy as np

from edgemtl.data.scenes import textures
from edgemtl.data.scenes.shapes import Mesh, about_z, box, cylinder, ellipsoid, lathe, limb
from edgemtl.data.scenes.textures import Paint, Rng
from edgemtl.data.scenes.things import Thing


def lamp(rng: Rng, height: float | None = None) -> Thing:
    """A floor lamp, or a table lamp of a given height; lit or not."""
    height = rng.uniform(1.35, 1.75) if height is None else height
    radius = min(0.24, 0.12 + height * 0.07) * rng.uniform(0.8, 1.2)
    thing = Thing("lamp", (radius * 2, radius * 2, height))
    lit = rng.random() < 0.6
    metal, shade = textures.plain(rng, gloss=0.4), textures.shining(rng, 1.3 if lit else 0.0)
    thing.add(cylinder(radius * 0.7, 0.03, top=radius * 0.6), metal)
    if height < 0.8 and rng.random() < 0.6:
        thing.add(ellipsoid(radius * 0.5, radius * 0.5, height * 0.3).at(0, 0, height * 0.3), metal)
    thing.add(cylinder(0.014, height - 0.15, segments=8).at(0, 0, 0.02), metal)
    drop = min(0.3, height * 0.45) * rng.uniform(0.7, 1)
    if rng.random() < 0.2:
        thing.add(ellipsoid(radius, radius, drop / 2).at(0, 0, height - drop / 2), shade)
    else:
        thing.add(lathe([(radius, height - drop), (radius * rng.uniform(0.5, 1), height)]), shade)
    thing.bulb = height + 0.05 if lit else None
    return thing


def pendant(rng: Rng, drop: float) -> Thing:
    """A ceiling lamp that hangs `drop` below its origin."""
    radius = rng.uniform(0.12, 0.28)
    thing = Thing("lamp", (radius * 2, radius * 2, 0.0), bulb=-drop - 0.12)
    shade = textures.shining(rng, 1.4)
    thing.add(cylinder(0.01, drop, segments=6).at(0, 0, -drop), textures.plain(rng))
    kind = rng.random()
    if kind < 0.4:
        thing.add(ellipsoid(radius, radius, radius * rng.uniform(0.6, 1)).at(0, 0, -drop + radius * 0.3), shade)
    elif kind < 0.8:
        thing.add(lathe([(radius, -drop), (radius * 0.3, -drop + radius), (0.01, -drop + radius)]), shade)
    else:
        thing.add(lathe([(0, -drop), (radius, -drop), (radius, -drop + 0.2)]), shade)
    return thing


def plant(rng: Rng, height: float | None = None) -> Thing:
    """A potted plant: broad leaves, grass, or a little tree."""
    height = rng.uniform(0.6, 1.7) if height is None else height
    pot = np.clip(height * 0.28, 0.08, 0.32) * rng.uniform(0.8, 1.1)
    radius = pot * rng.uniform(0.45, 0.6)
    thing = Thing("plant", (radius * 3, radius * 3, height))
    vessel = _vessel(radius, pot, 0.9, (radius * 0.9, pot * 0.85))
    thing.add(vessel, textures.fabric(rng) if rng.random() < 0.3 else textures.plain(rng, gloss=0.2))
    greens = [textures.leaf(rng) for _ in range(3)]
    foot, reach = np.array([0, 0, pot * 0.8]), height - pot
    if rng.random() < 0.3:
        thing.add(limb(foot, np.array([0, 0, height * 0.7]), 0.02, 0.015), textures.wooden(rng))
        for k in range(int(rng.integers(4, 9))):
            ball = reach * rng.uniform(0.14, 0.26)
            spread = reach * 0.2
            x, y = rng.normal(0, spread, 2).clip(-2 * spread, 2 * spread)
            tuft = ellipsoid(ball, ball, ball * 0.8, segments=12)
            thing.add(tuft.at(x, y, height - reach * rng.uniform(0.15, 0.45)), greens[k % 3])
        return thing
    broad = rng.uniform(0.05, 0.2)
    for k in range(int(rng.integers(9, 20))):
        length = reach * rng.uniform(0.55, 1.0)
        lean, turn = rng.uniform(0.1, 1.1), rng.uniform(0, 2 * np.pi)
        leaf = ellipsoid(length * broad, length * 0.02 + 0.002, length / 2, segments=10).at(0, 0, length / 2)
        c, s = np.cos(lean), np.sin(lean)
        tilt = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        thing.add(leaf.turned(about_z(turn) @ tilt).at(*foot), greens[k % 3])
    return thing


def _carton(rng: Rng, scale: float) -> Thing:
    w, d, h = scale * rng.uniform(0.5, 1.0, 3)
    thing = Thing("object", (w, d, h))
    paint = textures.plain(rng, textures.timber(rng)) if rng.random() < 0.4 else textures.fabric(rng)
    thing.add(box(w, d, h), paint)
    if rng.random() < 0.5:
        thing.add(
            box(w * 1.03, d * 1.03, h * 0.2).at(0, 0, h * 0.82), paint if rng.random() < 0.5 else textures.plain(rng)
        )
    return thing


def _ball(rng: Rng, scale: float) -> Thing:
    radius = scale * rng.uniform(0.3, 0.5)
    thing = Thing("object", (2 * radius, 2 * radius, 2 * radius))
    thing.add(ellipsoid(radius, radius, radius, segments=28).at(0, 0, radius), textures.fabric(rng))
    return thing


def _vase(rng: Rng, scale: float) -> Thing:
    knots = scale * rng.uniform(0.15, 0.45, 4)
    z = np.linspace(0, 1, 12)
    radius = np.interp(z, [0, 0.35, 0.75, 1], knots)
    radius = np.convolve(np.pad(radius, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    height = scale * rng.uniform(0.7, 1.6)
    thing = Thing("object", (2 * radius.max(), 2 * radius.max(), height))
    profile = [(0.0, 0.0)] + [(float(r), float(t * height)) for r, t in zip(radius, z)]
    thing.add(
        lathe(profile, smooth=True), textures.plain(rng, gloss=0.5) if rng.random() < 0.6 else textures.fabric(rng)
    )
    return thing


def _books(rng: Rng, scale: float) -> Thing:
    thing = Thing("object", (0.26, 0.26, 0.2))
    z = 0.0
    for _ in range(int(rng.integers(2, 6))):
        thick = rng.uniform(0.02, 0.05)
        book = box(rng.uniform(0.14, 0.22), rng.uniform(0.18, 0.28), thick)
        thing.add(book.turned(about_z(rng.normal(0, 0.2))).at(0, 0, z), textures.plain(rng))
        z += thick
    return thing


def _screen(rng: Rng, scale: float) -> Thing:
    width = rng.uniform(0.4, 0.7)
    thing = Thing("object", (width, 0.2, width * 0.75))
    case = textures.plain(rng, np.full(3, rng.uniform(0.01, 0.3)), gloss=0.3)
    thing.add(box(width * 0.4, 0.18, 0.015), case)
    thing.add(box(0.05, 0.04, width * 0.25).at(0, 0.02, 0), case)
    thing.add(box(width, 0.03, width * 0.6).at(0, 0, width * 0.16), case)
    view = textures.artwork(rng)
    glow = Paint(view.colours, view.pattern, view.period, view.shift, 0.5, float(rng.choice([0.0, 0.8])))
    thing.add(box(width * 0.94, 0.004, width * 0.53).at(0, -0.016, width * 0.195), glow)
    return thing


def _bin(rng: Rng, scale: float) -> Thing:
    radius, height = scale * 0.4, scale * rng.uniform(0.8, 1.2)
    thing = Thing("object", (2 * radius, 2 * radius, height))
    vessel = _vessel(radius, height, 0.94, (radius * 0.7, 0.02))
    thing.add(vessel, textures.plain(rng, gloss=0.2) if rng.random() < 0.5 else textures.fabric(rng))
    return thing


def _vessel(radius: float, height: float, inside: float, ground: tuple[float, float]) -> Mesh:
    """An open vessel: the share of its radius that is inside at the rim, and its ground's radius and height."""
    wall = [(0, 0), (radius * 0.75, 0), (radius, height), (radius * inside, height)]
    return lathe([*wall, ground, (0, ground[1])])


_SMALL: tuple[Callable[[Rng, float], Thing], ...] = (_carton, _ball, _vase, _books, _screen, _bin)


def trinket(rng: Rng) -> Thing:
    """Something small for a table top: box, ball, vase, books, screen or a pot plant."""
    if rng.random() < 0.12:
        return plant(rng, rng.uniform(0.2, 0.45))
    return _SMALL[int(rng.integers(len(_SMALL)))](rng, rng.uniform(0.12, 0.3))


def loose(rng: Rng) -> Thing:
    """Something loose for the floor: carton, ball, large vase or a bin."""
    return (_carton, _ball, _vase, _bin)[int(rng.integers(4))](rng, rng.uniform(0.3, 0.6))
