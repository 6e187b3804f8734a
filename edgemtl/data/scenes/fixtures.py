"""What hangs on walls: pictures, windows, doors. Backs are at y = 0, fronts towards -y, lower edges at z = 0."""

import numpy as np

from edgemtl.data.scenes import textures
from edgemtl.data.scenes.shapes import box, cylinder, limb
from edgemtl.data.scenes.textures import Rng
from edgemtl.data.scenes.things import Thing


def picture(rng: Rng) -> Thing:
    """A framed picture; its back is at y = 0 and its lower edge at z = 0."""
    width, height = rng.uniform(0.3, 1.3), rng.uniform(0.3, 0.95)
    thing = Thing("picture", (width, 0.03, height))
    thing.add(box(width, 0.025, height).at(0, -0.0125, 0), textures.joinery(rng))
    rim = rng.uniform(0.02, 0.06)
    thing.add(box(width - 2 * rim, 0.004, height - 2 * rim).at(0, -0.026, rim), textures.artwork(rng))
    return thing


def window(rng: Rng, height: float) -> Thing:
    """A window with its bars and sill; its back is at y = 0 and its lower edge at z = 0."""
    width = rng.uniform(0.8, 2.0)
    thing = Thing("window", (width, 0.1, height))
    frame = textures.plain(rng, np.full(3, rng.uniform(0.5, 0.9))) if rng.random() < 0.6 else textures.wooden(rng)
    view = textures.outdoors(rng, height)
    thing.add(box(width, 0.01, height).at(0, -0.01, 0), view)
    rim = rng.uniform(0.04, 0.07)
    for side in (-1, 1):
        thing.add(box(rim, 0.06, height).at(side * (width - rim) / 2, -0.03, 0), frame)
    for z in (0.0, height - rim):
        thing.add(box(width, 0.06, rim).at(0, -0.03, z), frame)
    for k in range(1, int(rng.integers(1, 4))):
        thing.add(box(rim, 0.05, height).at(-width / 2 + width * k / 3 if width > 1.4 else 0.0, -0.025, 0), frame)
    if rng.random() < 0.4:
        thing.add(box(width, 0.05, rim * 0.7).at(0, -0.025, height * rng.uniform(0.45, 0.7)), frame)
    thing.add(box(width + 0.1, 0.14, 0.03).at(0, -0.07, -0.03), frame)
    if rng.random() < 0.4:
        cloth = textures.fabric(rng)
        for side in (-1, 1):
            share = rng.uniform(0.15, 0.35) * width
            for k in range(4):
                fold = cylinder(share / 7, height + 0.25, segments=10)
                thing.add(fold.at(side * (width / 2 + 0.1 - share / 4 * (k + 0.5)), -0.12, -0.15), cloth)
    thing.bulb = height / 2 if view.glow > 0.55 else None
    return thing


def door(rng: Rng) -> Thing:
    """A door with its casing; its back is at y = 0."""
    width, height = rng.uniform(0.75, 0.95), rng.uniform(1.98, 2.1)
    thing = Thing("door", (width + 0.16, 0.1, height + 0.08))
    leaf = textures.joinery(rng)
    casing = leaf if rng.random() < 0.4 else textures.joinery(rng)
    for side in (-1, 1):
        thing.add(box(0.08, 0.05, height + 0.08).at(side * (width / 2 + 0.04), -0.025, 0), casing)
    thing.add(box(width, 0.05, 0.08).at(0, -0.025, height), casing)
    thing.add(box(width, 0.02, height).at(0, -0.01, 0), leaf)
    rows = int(rng.choice([0, 1, 2, 3]))
    panel = textures.Paint(leaf.colours * 0.85, leaf.pattern, leaf.period, leaf.shift, leaf.gloss)
    for k in range(rows):
        tall = (height - 0.2) / rows - 0.1
        for side in (-1, 1):
            thing.add(box(width * 0.36, 0.015, tall).at(side * width * 0.22, -0.0225, 0.15 + k * (tall + 0.1)), panel)
    side = rng.choice([-1, 1])
    thing.add(
        limb(np.array([side * width * 0.42, -0.07, 1.0]), np.array([side * width * 0.3, -0.07, 1.0]), 0.015, 0.015),
        textures.plain(rng, np.full(3, rng.uniform(0.1, 0.8)), gloss=0.6),
    )
    return thing
