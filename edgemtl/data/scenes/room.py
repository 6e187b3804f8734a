"""A furnished room as one triangle mesh: metres, x right, y ahead, z up, the floor's corner at the origin."""

from dataclasses import dataclass

import numpy as np

from edgemtl.data.scenes import clutter, fixtures, furniture, textures
from edgemtl.data.scenes.people import person
from edgemtl.data.scenes.shapes import Mesh, about_z, box
from edgemtl.data.scenes.textures import Paint, Palette, Rng
from edgemtl.data.scenes.things import Thing

CLASSES = (
    "wall",
    "floor",
    "ceiling",
    "door",
    "window",
    "picture",
    "cabinet",
    "shelf",
    "table",
    "chair",
    "sofa",
    "bed",
    "lamp",
    "plant",
    "object",
    "person",
)
"""The class names of the semseg label, in the order of their numbers."""


@dataclass(frozen=True)
class Light:
    """A ball that shines: its centre (3,), radius in metres and linear RGB strength (3,) at one metre."""

    centre: np.ndarray
    radius: float
    power: np.ndarray


@dataclass(frozen=True)
class Room:
    """What the renderer needs: a mesh, and per part (a patch of one paint) paint, class, instance and human part."""

    vertices: np.ndarray  # (n, 3)
    normals: np.ndarray  # (n, 3)
    uv: np.ndarray  # (n, 2)
    faces: np.ndarray  # (m, 3)
    part: np.ndarray  # (m,) the part of every face
    instance: np.ndarray  # (parts,)
    semseg: np.ndarray  # (parts,) class number
    body: np.ndarray  # (parts,) human part
    palette: Palette  # one paint per part
    lights: list[Light]
    ambient: np.ndarray  # (2, 3) linear RGB of the light that reaches surfaces from below and from above
    size: np.ndarray  # (3,) width, depth and height of the room
    footprints: np.ndarray  # (k, 4) x0, y0, x1, y1 of what stands on the floor


class _Builder:
    """Collects placed things and remembers what is taken."""

    def __init__(self, rng: Rng, size: np.ndarray):
        self.rng, self.size = rng, size
        self.meshes: list[Mesh] = []
        self.paints: list[Paint] = []
        self.rows: list[tuple[int, int, int]] = []  # instance, class, human part
        self.instances = 0
        self.taken: list[tuple[float, float, float, float]] = []
        self.hung: list[list[tuple[float, float, float, float]]] = [[], [], [], []]  # per wall: u0, z0, u1, z1
        self.lights: list[Light] = []

    def place(self, thing: Thing, at: tuple[float, float, float], angle: float = 0.0) -> None:
        """Puts a thing there, turned counter-clockwise by `angle`, as a new instance."""
        turn = about_z(angle)
        for mesh, paint, body in thing.parts:
            self.meshes.append(mesh.turned(turn).at(*at))
            self.paints.append(paint)
            self.rows.append((self.instances, CLASSES.index(thing.name), body))
        self.instances += 1

    def wall_point(self, wall: int, u: float, out: float) -> tuple[tuple[float, float], float]:
        """The point `u` metres along a wall and `out` metres off it, and the angle that faces the room from there."""
        width, depth = self.size[:2]
        x, y = ((u, depth - out), (out, u), (width - u, out), (width - out, depth - u))[wall]
        return (float(x), float(y)), wall * np.pi / 2

    def length(self, wall: int) -> float:
        """The length of a wall."""
        return float(self.size[wall % 2])

    def free(self, x: float, y: float, half_x: float, half_y: float, margin: float = 0.05) -> bool:
        """Whether a rectangle about (x, y) is inside the room and touches nothing there; if so it is taken."""
        x0, y0, x1, y1 = x - half_x, y - half_y, x + half_x, y + half_y
        if x0 < 0 or y0 < 0 or x1 > self.size[0] or y1 > self.size[1]:
            return False
        if any(
            x0 < b + margin and x1 > a - margin and y0 < d + margin and y1 > c - margin for a, c, b, d in self.taken
        ):
            return False
        self.taken.append((x0, y0, x1, y1))
        return True

    def hang(self, thing: Thing, wall: int, z: float) -> tuple[float, float] | None:
        """Hangs a thing on a wall where it hides nothing; its place along the wall and z, or None."""
        width, _, height = thing.size
        for _ in range(6):
            if self.length(wall) < width + 0.4:
                return None
            u = self.rng.uniform(width / 2 + 0.2, self.length(wall) - width / 2 - 0.2)
            patch = (u - width / 2 - 0.06, z, u + width / 2 + 0.06, z + height)
            if all(patch[0] > b or patch[2] < a or patch[1] > d or patch[3] < c for a, c, b, d in self.hung[wall]):
                self.hung[wall].append(patch)
                (x, y), angle = self.wall_point(wall, u, 0.0)
                self.place(thing, (x, y, z), angle)
                return u, z
        return None

    def against_wall(self, thing: Thing) -> bool:
        """Stands a thing with its back to some wall, with luck."""
        width, depth, height = thing.size
        for _ in range(10):
            wall = int(self.rng.integers(4))
            if self.length(wall) < width + 0.1:
                continue
            if self.rng.random() < 0.3:
                u = width / 2 + 0.03
            else:
                u = self.rng.uniform(width / 2 + 0.02, self.length(wall) - width / 2 - 0.02)
            patch = (u - width / 2, 0.0, u + width / 2, height)
            if any(patch[0] < b and patch[2] > a and patch[3] > c for a, c, b, d in self.hung[wall]):
                continue
            (x, y), angle = self.wall_point(wall, u, depth / 2 + self.rng.uniform(0.02, 0.06))
            half = (width / 2, depth / 2) if wall % 2 == 0 else (depth / 2, width / 2)
            if self.free(x, y, *half):
                self.hung[wall].append(patch)
                self.stand(thing, x, y, angle)
                return True
        return False

    def in_the_open(self, thing: Thing, around: float = 0.5) -> tuple[float, float, float] | None:
        """Stands a thing anywhere; x, y and angle, or None. `around` is how much of the room's middle it prefers."""
        for _ in range(10):
            square = self.rng.random() < 0.4
            angle = float(self.rng.integers(4)) * np.pi / 2 if square else self.rng.uniform(0, 2 * np.pi)
            c, s = abs(np.cos(angle)), abs(np.sin(angle))
            width, depth, _ = thing.size
            half_x, half_y = (width * c + depth * s) / 2, (width * s + depth * c) / 2
            x, y = self.size[:2] * self.rng.uniform(0.5 - around, 0.5 + around, 2)
            if self.free(float(x), float(y), half_x, half_y):
                self.stand(thing, float(x), float(y), angle)
                return float(x), float(y), angle
        return None

    def stand(self, thing: Thing, x: float, y: float, angle: float) -> None:
        """Places a thing on the floor, with things on its top and perhaps somebody on its seat."""
        self.place(thing, (x, y, 0.0), angle)
        turn = about_z(angle)
        if thing.bulb is not None:
            self.shine(np.array([x, y, thing.bulb]), 0.1, self.rng.uniform(0.4, 1.5), warm=True)
        if thing.seats and self.rng.random() < (0.3 if thing.name == "sofa" else 0.15):
            seat = turn @ np.array(thing.seats[int(self.rng.integers(len(thing.seats)))])
            self.place(person(self.rng, sitting=True), (x + seat[0], y + seat[1], seat[2]), angle)
        if thing.top is not None:
            width, depth, z = thing.top
            spots: list[tuple[float, float, float]] = []
            for _ in range(int(self.rng.integers(0, 5))):
                lit = self.rng.random() < 0.15
                small = clutter.lamp(self.rng, self.rng.uniform(0.35, 0.6)) if lit else clutter.trinket(self.rng)
                reach = max(small.size[:2]) / 2
                if 2 * reach > min(width, depth):
                    continue
                u, v = self.rng.uniform(-1, 1, 2) * (width / 2 - reach, depth / 2 - reach)
                if any(np.hypot(u - a, v - b) < reach + r for a, b, r in spots):
                    continue
                spots.append((u, v, reach))
                spot = turn @ np.array([u, v, 0])
                at = (x + spot[0], y + spot[1], z)
                self.place(small, at, angle + self.rng.normal(0, 0.4))
                if small.bulb is not None:
                    self.shine(np.array(at) + (0, 0, small.bulb), 0.08, self.rng.uniform(0.2, 0.8), warm=True)

    def shine(self, centre: np.ndarray, radius: float, strength: float, *, warm: bool) -> None:
        """One more light, yellowish or bluish."""
        tint = np.array([1.0, 0.85, 0.65]) if warm else np.array([0.85, 0.95, 1.0])
        tint = 1 + (tint - 1) * self.rng.uniform(0, 1.2)
        self.lights.append(Light(centre, radius, strength * tint))


def _shell(b: _Builder) -> None:
    """Walls, floor and ceiling, each an instance of its own."""
    rng, (width, depth, height) = b.rng, b.size
    floor = Thing("floor", (0, 0, 0))
    floor.add(box(width + 1, depth + 1, 0.5).at(width / 2, depth / 2, -0.5), textures.flooring(rng))
    b.place(floor, (0, 0, 0))
    ceiling = Thing("ceiling", (0, 0, 0))
    pale = np.full(3, rng.uniform(0.6, 0.95)) if rng.random() < 0.85 else textures.random_colour(rng)
    kind = rng.random()
    paint = textures.plain(rng, pale)
    if kind < 0.1:
        paint = Paint(np.array([pale, pale, pale * 0.4]), "tiles", (0.6, 0.6))
    elif kind < 0.18:
        paint = textures.wooden(rng)
    ceiling.add(box(width + 1, depth + 1, 0.5).at(width / 2, depth / 2, height), paint)
    b.place(ceiling, (0, 0, 0))
    common = textures.walling(rng)
    skirting = textures.joinery(rng) if rng.random() < 0.5 else textures.plain(rng, np.full(3, 0.8))
    accent, rail = int(rng.integers(8)), rng.uniform(0.06, 0.14)
    for wall in range(4):
        long = b.length(wall)
        thing = Thing("wall", (0, 0, 0))
        thing.add(
            box(long + 1, 0.5, height + 0.6).at(0, 0.25, -0.3), textures.walling(rng) if wall == accent else common
        )
        thing.add(box(long, 0.03, rail).at(0, 0, 0), skirting)
        (x, y), angle = b.wall_point(wall, long / 2, 0.0)
        b.place(thing, (x, y, 0), angle)
    if rng.random() < 0.2:  # a pillar or a boxed-in pipe in a corner
        side, x, y = rng.uniform(0.2, 0.5), int(rng.integers(2)) * width, int(rng.integers(2)) * depth
        pillar = Thing("wall", (0, 0, 0))
        pillar.add(box(side * 2, side * 2, height), common)
        b.place(pillar, (x, y, 0))
        b.taken.append((x - side, y - side, x + side, y + side))
        for wall in range(4):  # nothing hangs where it stands
            for u in (0.0, b.length(wall)):
                if np.hypot(*np.subtract(b.wall_point(wall, u, 0.0)[0], (x, y))) < 0.01:
                    b.hung[wall].append((u - side, 0.0, u + side, height))


def _openings(b: _Builder) -> None:
    """One or two doors, up to three windows."""
    rng = b.rng
    for _ in range(int(rng.choice([1, 1, 1, 2]))):
        wall, opening = int(rng.integers(4)), fixtures.door(rng)
        spot = b.hang(opening, wall, 0.0)
        if spot is not None:
            (x, y), _ = b.wall_point(wall, spot[0], 0.4)
            half = (opening.size[0] / 2, 0.4) if wall % 2 == 0 else (0.4, opening.size[0] / 2)
            b.taken.append((x - half[0], y - half[1], x + half[0], y + half[1]))
    for _ in range(int(rng.choice([0, 1, 1, 2, 2, 3]))):
        wall, sill = int(rng.integers(4)), rng.uniform(0.75, 1.1)
        opening = fixtures.window(rng, min(rng.uniform(0.8, 1.4), b.size[2] - sill - 0.2))
        spot = b.hang(opening, wall, sill)
        if spot is not None and opening.bulb is not None:
            (x, y), _ = b.wall_point(wall, spot[0], 0.35)
            b.shine(np.array([x, y, sill + opening.bulb]), 0.3, rng.uniform(1.0, 4.0), warm=False)


# What stands in a room, by what it is for: along the walls, and in the open.
_USES = {
    "bedroom": (("bed", "cabinet", "cabinet", "lamp", "shelf", "plant", "chair"), ("chair",)),
    "living": (("sofa", "shelf", "cabinet", "lamp", "plant", "sofa"), ("table", "sofa", "chair")),
    "dining": (("cabinet", "shelf", "plant", "cabinet", "lamp"), ("set", "chair")),
    "study": (("table", "shelf", "shelf", "cabinet", "plant", "lamp", "sofa"), ("set", "chair")),
    "studio": (("bed", "sofa", "cabinet", "shelf", "table", "plant", "lamp"), ("table", "chair")),
}
_MAKERS = {
    "bed": furniture.bed,
    "cabinet": furniture.cabinet,
    "lamp": clutter.lamp,
    "shelf": furniture.shelf,
    "plant": clutter.plant,
    "chair": furniture.chair,
    "sofa": furniture.sofa,
    "table": furniture.table,
}


def _set(b: _Builder) -> None:
    """A table with chairs about it."""
    rng, piece = b.rng, furniture.table(b.rng)
    spot = b.in_the_open(piece, 0.3)
    if spot is None:
        return
    x, y, angle = spot
    model = int(rng.integers(1 << 31))
    for side in range(4):
        if rng.random() < 0.3:
            continue
        seat = furniture.chair(np.random.default_rng(model))  # chairs of a set are alike
        way = angle + side * np.pi / 2
        reach = piece.size[1 - side % 2] / 2 + rng.uniform(0.1, 0.35)
        cx, cy = x - np.sin(way) * reach, y + np.cos(way) * reach
        # Chairs may reach under the table, so only the room's and other things' limits count.
        if 0.3 < cx < b.size[0] - 0.3 and 0.3 < cy < b.size[1] - 0.3 and b.free(cx, cy, 0.2, 0.2, margin=-0.2):
            b.stand(seat, cx, cy, way + rng.normal(0, 0.15))


def random_room(rng: Rng) -> Room:
    """A random room; the same generator state gives the same room."""
    b = _Builder(rng, np.array([rng.uniform(2.8, 6.5), rng.uniform(2.8, 6.5), rng.uniform(2.3, 3.1)]))
    _shell(b)
    _openings(b)
    walls, middle = _USES[str(rng.choice(sorted(_USES)))]
    for name in walls:
        if rng.random() < 0.75:
            b.against_wall(_MAKERS[name](rng))
    for name in middle:
        if rng.random() < 0.7:
            _set(b) if name == "set" else b.in_the_open(_MAKERS[name](rng), 0.35)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.45, 0.2]))):
        b.in_the_open(person(rng), 0.4)
    for _ in range(int(rng.integers(0, 4))):
        b.in_the_open(clutter.loose(rng))
    if rng.random() < 0.4:  # a rug is part of the floor's class; it may lie under things
        rug = Thing("floor", (0, 0, 0))
        rug.add(box(rng.uniform(1.0, 2.6), rng.uniform(0.8, 1.9), 0.012), textures.fabric(rng))
        b.place(
            rug, (*(b.size[:2] * rng.uniform(0.35, 0.65, 2)), 0.0), rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
        )
    for _ in range(int(rng.integers(1, 6))):
        b.hang(fixtures.picture(rng), int(rng.integers(4)), rng.uniform(1.1, 1.45))

    drop = rng.uniform(0.05, 0.7)
    x, y = b.size[:2] * rng.uniform(0.35, 0.65, 2)
    if rng.random() < 0.6:
        lamp = clutter.pendant(rng, drop)
        b.place(lamp, (x, y, b.size[2]))
        assert lamp.bulb is not None
        drop = -lamp.bulb
    b.shine(np.array([x, y, b.size[2] - drop - 0.1]), rng.uniform(0.05, 0.25), rng.uniform(2.0, 5.0), warm=True)
    lights = sorted(b.lights, key=lambda light: -float(light.power.sum()))[:2]  # a shadow ray each: two are affordable
    glow = rng.uniform(0.25, 0.7) * (1 + 0.1 * rng.standard_normal((2, 3))) * np.array([[0.6], [1.0]])
    return _merge(b, lights, np.clip(glow, 0.05, 1))


def _merge(b: _Builder, lights: list[Light], ambient: np.ndarray) -> Room:
    counts = np.array([len(m.vertices) for m in b.meshes])
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rows = np.array(b.rows)
    return Room(
        vertices=np.concatenate([m.vertices for m in b.meshes]),
        normals=np.concatenate([m.normals for m in b.meshes]),
        uv=np.concatenate([m.uv for m in b.meshes]),
        faces=np.concatenate([m.faces + k for m, k in zip(b.meshes, first)]),
        part=np.repeat(np.arange(len(b.meshes)), [len(m.faces) for m in b.meshes]),
        instance=rows[:, 0],
        semseg=rows[:, 1],
        body=rows[:, 2],
        palette=Palette(b.paints),
        lights=lights,
        ambient=ambient,
        size=b.size,
        footprints=np.array(b.taken).reshape(-1, 4),
    )
