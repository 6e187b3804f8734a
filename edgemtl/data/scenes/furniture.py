"""Furniture. Each piece stands on its own origin (metres), its front towards -y."""

import numpy as np

from edgemtl.data.scenes import textures
from edgemtl.data.scenes.shapes import about_z, box, cushion, cylinder, ellipsoid, limb
from edgemtl.data.scenes.textures import Paint, Rng
from edgemtl.data.scenes.things import Thing


def _legs(
    thing: Thing,
    width: float,
    depth: float,
    height: float,
    thick: float,
    paint: Paint,
    *,
    round: bool,
    inset: float = 0.03,
) -> None:
    for sx in (-1, 1):
        for sy in (-1, 1):
            leg = cylinder(thick * 0.4, height, top=thick * 0.6, segments=10) if round else box(thick, thick, height)
            thing.add(leg.at(sx * (width / 2 - inset - thick / 2), sy * (depth / 2 - inset - thick / 2), 0), paint)


def table(rng: Rng) -> Thing:
    """A dining, coffee or writing table, round or square."""
    low = rng.random() < 0.3
    height = rng.uniform(0.35, 0.5) if low else rng.uniform(0.68, 0.8)
    width, depth = rng.uniform(0.7, 1.7), rng.uniform(0.55, 0.95)
    thick = rng.uniform(0.02, 0.06)
    paint = textures.joinery(rng)
    base = paint if rng.random() < 0.5 else textures.joinery(rng)
    if rng.random() < 0.25:
        depth = width = rng.uniform(0.6, 1.2)
        piece = Thing("table", (width, depth, height), top=(width * 0.65, width * 0.65, height))
        piece.add(cylinder(width / 2, thick, segments=32).at(0, 0, height - thick), paint)
        if rng.random() < 0.6:
            piece.add(cylinder(rng.uniform(0.03, 0.07), height - thick, segments=14), base)
            piece.add(cylinder(width * 0.28, 0.03, segments=24), base)
        else:
            _legs(piece, width * 0.75, width * 0.75, height - thick, 0.05, base, round=True)
        return piece
    piece = Thing("table", (width, depth, height), top=(width * 0.9, depth * 0.85, height))
    piece.add(box(width, depth, thick).at(0, 0, height - thick), paint)
    _legs(piece, width, depth, height - thick, rng.uniform(0.035, 0.09), base, round=rng.random() < 0.4)
    if rng.random() < 0.4:
        piece.add(box(width - 0.12, depth - 0.12, 0.08).at(0, 0, height - thick - 0.08), base)
    elif not low and rng.random() < 0.3:
        piece.add(box(0.38, depth - 0.1, height - thick - 0.05).at(width / 2 - 0.24, 0, 0.05), base)
    elif low and rng.random() < 0.5:
        piece.add(box(width - 0.1, depth - 0.1, 0.02).at(0, 0, height * 0.4), base)
    return piece


def chair(rng: Rng) -> Thing:
    """A chair, an armchair on castors, or a stool."""
    width, depth, seat = rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.48)
    tall = seat + rng.uniform(0.35, 0.6)
    frame = textures.joinery(rng)
    soft = textures.fabric(rng) if rng.random() < 0.5 else frame
    kind = rng.random()
    piece = Thing("chair", (width, depth, tall), seats=[(0.0, 0.02, seat)])
    if kind < 0.15:
        piece.size = (width, depth, seat)
        piece.add(cylinder(width * 0.42, 0.05).at(0, 0, seat - 0.05), soft)
        _legs(piece, width * 0.8, depth * 0.8, seat - 0.05, 0.04, frame, round=True)
        return piece
    piece.add(
        (cushion(width, depth, 0.08) if soft is not frame else box(width, depth, 0.035)).at(0, 0, seat - 0.05), soft
    )
    if kind < 0.35:
        piece.add(cylinder(0.03, seat - 0.08, segments=10).at(0, 0, 0.04), frame)
        for k in range(5):
            way = 0.28 * np.array([np.cos(k * 1.2566), np.sin(k * 1.2566), 0])
            piece.add(limb(np.array([0, 0, 0.09]), way + (0, 0, 0.04), 0.025, 0.02), frame)
        piece.add(box(0.05, 0.02, 0.25).at(0, depth / 2, seat - 0.02), frame)
        piece.add(cushion(width * 0.95, 0.08, tall - seat - 0.1).at(0, depth / 2 - 0.02, seat + 0.1), soft)
    else:
        _legs(piece, width, depth, seat - 0.04, rng.uniform(0.03, 0.05), frame, round=rng.random() < 0.5, inset=0.0)
        for side in (-1, 1):
            piece.add(box(0.035, 0.03, tall - seat).at(side * (width / 2 - 0.02), depth / 2 - 0.015, seat), frame)
        back = tall - seat
        style = rng.random()
        if style < 0.4:
            piece.add(box(width, 0.025, back * 0.55).at(0, depth / 2 - 0.015, seat + back * 0.42), soft)
        elif style < 0.7:
            for k in range(int(rng.integers(2, 5))):
                piece.add(box(width, 0.02, 0.05).at(0, depth / 2 - 0.015, tall - 0.07 - k * 0.11), frame)
        else:
            piece.add(box(width, 0.03, 0.06).at(0, depth / 2 - 0.015, tall - 0.06), frame)
            for x in np.linspace(-0.35, 0.35, int(rng.integers(3, 6))):
                piece.add(box(0.025, 0.018, back - 0.05).at(float(x) * width, depth / 2 - 0.015, seat), frame)
    if rng.random() < 0.25:
        for side in (-1, 1):
            piece.add(box(0.04, depth * 0.8, 0.03).at(side * width / 2, 0.03, seat + 0.2), frame)
            piece.add(box(0.03, 0.03, 0.22).at(side * width / 2, -depth * 0.3, seat - 0.02), frame)
    return piece


def sofa(rng: Rng) -> Thing:
    """A sofa or armchair of one to three places, with loose pillows."""
    places = int(rng.choice([1, 2, 2, 3, 3]))
    arm, depth = rng.uniform(0.08, 0.25), rng.uniform(0.75, 0.95)
    width = places * rng.uniform(0.55, 0.7) + 2 * arm
    seat, tall = rng.uniform(0.36, 0.46), rng.uniform(0.7, 0.95)
    cloth, power = textures.fabric(rng), float(rng.choice([4.0, 6.0, 10.0]))
    back = rng.uniform(0.15, 0.25)
    piece = Thing("sofa", (width, depth, tall))
    foot = float(rng.choice([0.0, 0.08, 0.12]))
    if foot:
        _legs(piece, width, depth, foot + 0.02, 0.05, textures.wooden(rng), round=True)
    piece.add(box(width - 0.04, depth - 0.04, seat - 0.16 - foot).at(0, 0, foot), cloth)
    piece.add(cushion(width, back, tall - foot, power=power).at(0, depth / 2 - back / 2, foot), cloth)
    for side in (-1, 1):
        piece.add(
            cushion(arm, depth, rng.uniform(0.5, 0.62) - foot, power=power).at(side * (width / 2 - arm / 2), 0, foot),
            cloth,
        )
    place = (width - 2 * arm) / places
    for k in range(places):
        x = -width / 2 + arm + (k + 0.5) * place
        piece.add(cushion(place - 0.01, depth - back, 0.2, power=power).at(x, -back / 2, seat - 0.18), cloth)
        piece.add(cushion(place - 0.02, 0.18, tall - seat - 0.02, power=4).at(x, depth / 2 - back - 0.06, seat), cloth)
        piece.seats.append((x, -0.05, seat))
    for _ in range(int(rng.integers(0, 3))):
        tilt = about_z(rng.uniform(-0.5, 0.5))
        piece.add(
            ellipsoid(0.2, 0.08, 0.19, power=3)
            .turned(tilt)
            .at(rng.uniform(-0.35, 0.35) * width, depth / 2 - back - 0.2, seat + 0.19),
            textures.fabric(rng),
        )
    return piece


def bed(rng: Rng) -> Thing:
    """A single or double bed, its head towards +y."""
    width, length, height = float(rng.choice([0.9, 1.2, 1.5, 1.7])), rng.uniform(1.95, 2.15), rng.uniform(0.4, 0.6)
    head = rng.uniform(0.75, 1.2)
    piece = Thing("bed", (width, length, head))
    frame = textures.joinery(rng)
    piece.add(box(width, length, height - 0.2).at(0, 0, 0.02), frame)
    piece.add(
        box(width + 0.04, 0.05, head).at(0, length / 2 - 0.025, 0),
        frame if rng.random() < 0.6 else textures.fabric(rng),
    )
    if rng.random() < 0.4:
        piece.add(box(width, 0.05, height + 0.1).at(0, -length / 2 + 0.025, 0), frame)
    linen = textures.fabric(rng)
    piece.add(cushion(width - 0.03, length - 0.08, 0.25, power=9).at(0, 0, height - 0.22), linen)
    cover = rng.uniform(0.5, 0.8) * length
    piece.add(
        cushion(width + 0.03, cover, 0.3, power=8).at(0, -length / 2 + cover / 2 + 0.04, height - 0.24),
        textures.fabric(rng),
    )
    pillow = textures.fabric(rng)
    count = 1 if width < 1.3 else 2
    for k in range(count):
        x = (k - (count - 1) / 2) * width / 2
        piece.add(
            ellipsoid(min(0.36, width / count / 2.2), 0.22, 0.09, power=2.6).at(x, length / 2 - 0.32, height + 0.08),
            pillow,
        )
    return piece


def cabinet(rng: Rng) -> Thing:
    """A chest of drawers, a bedside cabinet, a sideboard or a wardrobe."""
    kind = rng.random()
    if kind < 0.3:
        width, depth, height = rng.uniform(0.8, 1.8), rng.uniform(0.5, 0.62), rng.uniform(1.8, 2.15)
        columns, rows = max(2, round(width / 0.5)), 1
    elif kind < 0.5:
        width, depth, height = rng.uniform(0.4, 0.5), rng.uniform(0.35, 0.45), rng.uniform(0.45, 0.6)
        columns, rows = 1, int(rng.integers(1, 4))
    else:
        width, depth, height = rng.uniform(0.7, 1.7), rng.uniform(0.38, 0.6), rng.uniform(0.65, 1.1)
        columns, rows = max(1, round(width / rng.uniform(0.4, 0.8))), int(rng.integers(1, 5))
    piece = Thing("cabinet", (width, depth, height), top=(width * 0.9, depth * 0.8, height) if height < 1.4 else None)
    body, front = textures.joinery(rng), textures.joinery(rng)
    front = body if rng.random() < 0.6 else front
    foot = float(rng.choice([0.0, 0.05, 0.12]))
    if foot:
        _legs(piece, width, depth, foot, 0.05, body, round=rng.random() < 0.5)
    piece.add(box(width, depth - 0.02, height - foot - 0.02).at(0, 0.01, foot), body)
    piece.add(box(width + 0.02, depth + 0.01, 0.025).at(0, 0, height - 0.025), body)
    knob = textures.plain(rng, gloss=0.5)
    w, h = (width - 0.02) / columns, (height - foot - 0.05) / rows
    for i in range(columns):
        for j in range(rows):
            x, z = -width / 2 + 0.01 + (i + 0.5) * w, foot + 0.01 + j * h
            piece.add(box(w - 0.015, 0.02, h - 0.015).at(x, -depth / 2 + 0.01, z), front)
            if h > w * 1.3:
                piece.add(
                    box(0.015, 0.03, min(0.16, h / 4)).at(
                        x + (0.38 if i % 2 == 0 else -0.38) * w, -depth / 2 - 0.01, z + h * 0.45
                    ),
                    knob,
                )
            else:
                piece.add(box(min(0.14, w / 3), 0.03, 0.018).at(x, -depth / 2 - 0.01, z + h * 0.55), knob)
    return piece


def shelf(rng: Rng) -> Thing:
    """An open shelf with rows of books and boxes."""
    width, depth, height = rng.uniform(0.5, 1.2), rng.uniform(0.25, 0.38), rng.uniform(0.8, 2.1)
    piece = Thing("shelf", (width, depth, height), top=(width * 0.9, depth * 0.7, height) if height < 1.3 else None)
    paint, thick = textures.joinery(rng), rng.uniform(0.018, 0.035)
    for side in (-1, 1):
        piece.add(box(thick, depth, height).at(side * (width - thick) / 2, 0, 0), paint)
    if rng.random() < 0.7:
        piece.add(box(width - thick, 0.01, height).at(0, depth / 2 - 0.005, 0), paint)
    rows = max(2, round(height / rng.uniform(0.3, 0.42)))
    gap = (height - thick) / rows
    books = [textures.plain(rng) for _ in range(6)] + [textures.fabric(rng) for _ in range(2)]
    for k in range(rows + 1):
        piece.add(box(width - thick, depth, thick).at(0, 0, k * gap), paint)
    for k in range(rows):
        x, end = -width / 2 + thick + 0.01, width / 2 - thick - 0.06
        if rng.random() < 0.12:
            continue
        end -= (width - 0.1) * float(rng.choice([0, 0, 0.3, 0.5]))
        while x < end:
            wide, high = rng.uniform(0.02, 0.06), gap * rng.uniform(0.55, 0.85)
            if rng.random() < 0.06:
                wide, high = 0.2, gap * 0.5
            wide = min(wide, width / 2 - thick - x)
            book = box(wide, depth * rng.uniform(0.55, 0.85), high)
            piece.add(book.at(x + wide / 2, rng.uniform(-0.01, 0.02), k * gap + thick), books[int(rng.integers(8))])
            x += wide + (0.002 if rng.random() < 0.9 else 0.05)
    return piece
