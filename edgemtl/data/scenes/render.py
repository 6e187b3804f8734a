"""Pictures and exact labels of a room, by casting rays with Embree."""

from dataclasses import dataclass

import numpy as np

from edgemtl.data.scenes.room import CLASSES, Room
from edgemtl.data.scenes.textures import Rng

LABELS = ("semseg", "depth", "normals", "edge", "human_parts", "sal")
_STRUCTURE = [CLASSES.index(name) for name in ("wall", "floor", "ceiling", "door", "window", "picture")]
_PERSON = CLASSES.index("person")
_AMBIENT_REACH_M = 0.7  # how far away things darken a corner
_ALL, _BUT_LAST, _BUT_FIRST = slice(None), slice(None, -1), slice(1, None)
_NEIGHBOURS = (((_BUT_LAST, _ALL), (_BUT_FIRST, _ALL)), ((_ALL, _BUT_LAST), (_ALL, _BUT_FIRST)))  # of all pixels
_CELL = 4  # side of the square of pixels that share out the soft shadows' directions


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: size (height, width), focal length in pixels, place (3,) and rotation (3, 3) in the world.

    The rotation's columns are the camera's x (right), y (up) and z (backwards, towards the viewer) axes.
    """

    size: tuple[int, int]
    focal: float
    place: np.ndarray
    rotation: np.ndarray

    def rays(self, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
        """(H, W, 3) camera-frame directions (x, y, -1) through pixels' centres: depth times ray is the point seen."""
        height, width = self.size
        x = (np.arange(width) + 0.5 + dx - width / 2) / self.focal
        y = (height / 2 - 0.5 - dy - np.arange(height)) / self.focal
        return np.stack([*np.meshgrid(x, y), np.full(self.size, -1.0)], -1)


@dataclass(frozen=True)
class View:
    """What the camera sees: image and labels by task name, plus the instance number of every pixel (H, W)."""

    sample: dict[str, np.ndarray]
    instance: np.ndarray
    camera: Camera


@dataclass(frozen=True)
class _Hits:
    """Where n rays met the room."""

    part: np.ndarray  # (n,)
    depth: np.ndarray  # (n,) float64
    point: np.ndarray  # (n, 3) float32, world
    normal: np.ndarray  # (n, 3) float32, world, towards the camera
    plane: np.ndarray  # (n, 3) float64, the facet's own normal, towards the camera, not unit
    uv: np.ndarray  # (n, 2) float32


class Tracer:
    """A room inside Embree. Not picklable; make one where it is used."""

    def __init__(self, room: Room):
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.room = room
        self.scene = EmbreeScene()
        TriangleMesh(self.scene, room.vertices.astype(np.float32), room.faces.astype(np.int32))
        corners = room.vertices[room.faces]
        self.corner = corners[:, 0]
        self.plane = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])

    def cast(self, place: np.ndarray, directions: np.ndarray) -> _Hits:
        """What rays from one place meet; directions (n, 3) in the world, depth in multiples of their lengths."""
        room = self.room
        origins = np.broadcast_to(place.astype(np.float32), directions.shape)
        hits = self.scene.run(np.ascontiguousarray(origins), directions.astype(np.float32), output=True)
        face = hits["primID"]
        assert (face >= 0).all(), "a ray left the room"
        plane = self.plane[face]
        # Embree's distances are single precision; the facet's plane gives them to the last digit.
        facing = np.einsum("ij,ij->i", plane, directions)
        depth = np.einsum("ij,ij->i", plane, self.corner[face] - place) / np.where(facing == 0, 1e-30, facing)
        depth = np.where(np.abs(depth - hits["tfar"]) < 1e-3 * hits["tfar"], depth, hits["tfar"])
        u, v = hits["u"][:, None], hits["v"][:, None]
        i, j, k = room.faces[face].T
        normal = (room.normals[i] * (1 - u - v) + room.normals[j] * u + room.normals[k] * v).astype(np.float32)
        # A facet is seen from its back inside open shapes such as lampshades: then its normals are those of the back.
        outward = np.einsum("ij,ij->i", plane, normal) > 0
        normal[(facing > 0) == outward] *= -1
        plane = np.where(facing[:, None] > 0, -plane, plane)
        # Near a silhouette a rounded normal may point away from the camera though its facet does not.
        way = directions / _length(directions)[:, None]
        away = np.maximum(np.einsum("ij,ij->i", normal, way), 0)
        normal -= (away[:, None] * way).astype(np.float32)
        normal /= _length(normal)[:, None]
        uv = (room.uv[i] * (1 - u - v) + room.uv[j] * u + room.uv[k] * v).astype(np.float32)
        point = (place + directions * depth[:, None]).astype(np.float32)
        return _Hits(room.part[face], depth, point, normal, plane, uv)

    def reaches(self, origins: np.ndarray, ways: np.ndarray) -> np.ndarray:
        """(n,) float32: 1 where nothing stands between origins and origins + ways, else 0."""
        limit = np.full(len(ways), 0.98, np.float32)
        hit = self.scene.run(
            np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(ways, np.float32), limit, "OCCLUDED"
        )
        return (hit < 0).astype(np.float32)


def view(tracer: Tracer, camera: Camera, rng: Rng, *, grain: Rng | None = None) -> View:
    """The image, every label and the instances that `camera` sees; `rng` gives exposure, tint and sensor noise.

    With `grain` the noise is drawn from that: frames of a film share all settings but not their noise.
    """
    rays = camera.rays()
    hits = tracer.cast(camera.place, rays.reshape(-1, 3) @ camera.rotation.T)
    room, size = tracer.room, camera.size
    instance = room.instance[hits.part].reshape(size)
    semseg = room.semseg[hits.part].reshape(size).astype(np.uint8)
    # Rounding to 1/4096 m lets the cache compress it to a third; single precision at 8 m is 1/2,000,000.
    depth = (np.round(hits.depth * 4096) / 4096).astype(np.float32).reshape(size)
    normals = (hits.normal @ camera.rotation.astype(np.float32)).reshape(*size, 3)
    sample = {
        "image": _picture(tracer, camera, hits, instance, rng, grain or rng),
        "semseg": semseg,
        "depth": depth,
        "normals": normals / np.linalg.norm(normals, axis=2, keepdims=True),
        "edge": boundaries(instance, hits.depth.reshape(size), (hits.plane @ camera.rotation).reshape(*size, 3), rays),
        "human_parts": room.body[hits.part].reshape(size).astype(np.uint8),
        "sal": salient(instance, semseg),
    }
    return View(sample, instance, camera)


def boundaries(instance: np.ndarray, depth: np.ndarray, planes: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """(H, W) uint8: 1 on the nearer of two neighbours (left-right or up-down) of different instances or across a gap.

    A gap: depths (H, W) differ by more than 3 cm + 2 %, and so do they when either pixel's facet (`planes`, its normal
    (H, W, 3) of any length) is continued to the other's ray. A steep floor has no gap, a leg before its table has one.
    """
    edge = np.zeros(instance.shape, np.uint8)
    offset = -np.einsum("ijk,ijk->ij", planes, rays) * depth  # of each pixel's facet from the camera
    for first, second in _NEIGHBOURS:
        near, miss = np.minimum(depth[first], depth[second]), np.abs(depth[first] - depth[second])
        for a, b in ((first, second), (second, first)):
            slope = -np.einsum("ijk,ijk->ij", planes[a], rays[b])
            continued = offset[a] / np.where(slope == 0, 1e-30, slope)
            miss = np.minimum(miss, np.abs(continued - depth[b]))
        apart = (instance[first] != instance[second]) | (miss > 0.03 + 0.02 * near)
        front = depth[first] <= depth[second]
        edge[first] |= (apart & front).astype(np.uint8)
        edge[second] |= (apart & ~front).astype(np.uint8)
    return edge


def salient(instance: np.ndarray, semseg: np.ndarray) -> np.ndarray:
    """(H, W) uint8: 1 on the one object that is largest when pixels count less off the centre and persons four times.

    Walls, floors, ceilings, doors, windows and pictures are no objects; nothing is salient below 1 % of the frame.
    """
    height, width = instance.shape
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    weight = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.25**2)) * np.where(semseg == _PERSON, 4.0, 1.0)
    weight[np.isin(semseg, _STRUCTURE)] = 0
    score = np.bincount(instance.ravel(), weight.ravel())
    score[np.bincount(instance.ravel()) < 0.01 * instance.size] = 0
    return ((instance == score.argmax()) & (score.max() > 0)).astype(np.uint8)


def _picture(tracer: Tracer, camera: Camera, hits: _Hits, instance: np.ndarray, rng: Rng, grain: Rng) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    size = camera.size
    visibility = _visibility(tracer, hits, size, rng)
    linear = _shade(tracer.room, camera, hits, visibility)
    part = hits.part.reshape(size)
    # Auto-exposure as cameras have it: the middle tones land about the middle, and the eye adds a mood.
    exposure = rng.uniform(0.16, 0.34) / np.clip(np.exp(np.log(linear.mean(1) + 1e-3).mean()), 0.02, 4)
    tint = np.exp(rng.normal(0, 0.06, 3)) * exposure
    image = _develop(linear * tint).reshape(*size, 3)

    # Several rays for a pixel only where two parts meet or a surface bends.
    normal = hits.normal.reshape(*size, 3)
    jagged = np.zeros(size, bool)
    for a, b in _NEIGHBOURS:
        differs = (part[a] != part[b]) | (np.einsum("ijk,ijk->ij", normal[a], normal[b]) < 0.8)
        jagged[a] |= differs
        jagged[b] |= differs
    row, column = np.nonzero(jagged)
    samples = image[row, column].copy()
    offsets = ((-0.33, -0.15), (0.04, 0.35), (0.29, -0.2))
    where = np.concatenate([camera.rays(dx, dy)[row, column] for dx, dy in offsets])
    fine = tracer.cast(camera.place, where @ camera.rotation.T)
    borrowed = _nearby(fine.part, np.tile(row, len(offsets)), np.tile(column, len(offsets)), part, visibility)
    samples += _develop(_shade(tracer.room, camera, fine, borrowed) * tint).reshape(len(offsets), -1, 3).sum(0)
    image[row, column] = samples / (1 + len(offsets))
    return _sense(image, rng, grain)


def _visibility(tracer: Tracer, hits: _Hits, size: tuple[int, int], rng: Rng) -> np.ndarray:
    """(n, 1 + lights) float32 in 0..1: openness to the surroundings and to every light.

    Interleaved sampling (Keller and Heidrich, 2001): each pixel of a 4 x 4 cell casts one of 16 directions, then
    cells are averaged over pixels of the same part and slope.
    """
    height, width = size
    cell = (np.arange(height)[:, None] % _CELL * _CELL + np.arange(width) % _CELL).ravel()
    shuffle = rng.permutation(_CELL * _CELL)
    start = hits.point + 2e-3 * hits.normal
    # 16 directions about the normal, as many as the cosine says.
    k = np.arange(_CELL * _CELL)
    turn, radius = k * 2.39996, np.sqrt((k + 0.5) / len(k))
    ball = np.stack([radius * np.cos(turn), radius * np.sin(turn), np.sqrt(1 - radius**2)], 1).astype(np.float32)[
        shuffle
    ]
    ways = ball[cell]
    up, right = np.eye(3, dtype=np.float32)[[2, 0]]
    aside = np.where(np.abs(hits.normal[:, 2:]) < 0.9, up, right)
    tangent = np.cross(aside, hits.normal)
    tangent /= _length(tangent)[:, None]
    ways = tangent * ways[:, :1] + np.cross(hits.normal, tangent) * ways[:, 1:2] + hits.normal * ways[:, 2:]
    reached = [tracer.reaches(start, ways * np.float32(_AMBIENT_REACH_M))]
    for light in tracer.room.lights:
        offset = np.stack([ball[:, 0], ball[:, 1], 2 * ((k * 7) % 16 + 0.5) / 16 - 1], 1)[cell] * light.radius
        ways = (light.centre + offset).astype(np.float32) - start
        facing = np.flatnonzero(np.einsum("ij,ij->i", ways, hits.normal) > 0)
        open = np.zeros(len(start), np.float32)
        open[facing] = tracer.reaches(start[facing], ways[facing])
        reached.append(open)
    values = np.stack(reached, 1).reshape(height, width, -1)
    return _average(values, hits.part.reshape(size), hits.normal.reshape(height, width, 3)).reshape(height * width, -1)


def _average(values: np.ndarray, part: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The mean of values (H, W, C) over 4 x 4 neighbours of the same part and (x, y, z to 0.5) the same normal."""
    height, width = part.shape
    side = np.round(2 * normal).astype(np.int32) + 2
    surface = ((part * 5 + side[..., 0]) * 5 + side[..., 1]) * 5 + side[..., 2]
    pad = ((2, 1), (2, 1))
    values_, surface_ = np.pad(values, (*pad, (0, 0))), np.pad(surface, pad, constant_values=-1)
    total, count = np.zeros_like(values), np.zeros((height, width, 1), np.float32)
    for dy in range(_CELL):
        for dx in range(_CELL):
            window = (slice(dy, dy + height), slice(dx, dx + width))
            weight = (surface_[window] == surface)[..., None].astype(np.float32)
            total += values_[window] * weight
            count += weight
    return total / np.maximum(count, 1)


def _nearby(
    part: np.ndarray, row: np.ndarray, column: np.ndarray, parts: np.ndarray, visibility: np.ndarray
) -> np.ndarray:
    """(n, C): `seen` of the closest pixel about (row, column) that shows the same part, else of the pixel itself."""
    height, width = parts.shape
    chosen = row * width + column
    same = parts[row, column] == part
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        y, x = np.clip(row + dy, 0, height - 1), np.clip(column + dx, 0, width - 1)
        better = ~same & (parts[y, x] == part)
        chosen = np.where(better, y * width + x, chosen)
        same |= better
    return visibility[chosen]


def _shade(room: Room, camera: Camera, hits: _Hits, visibility: np.ndarray) -> np.ndarray:
    """(n, 3) float32 linear RGB: matt reflection, highlights and glow, lit by the surroundings and the lights."""
    toward = camera.place.astype(np.float32) - hits.point
    distance = _length(toward)
    toward /= distance[:, None]
    grazing = np.maximum(np.einsum("ij,ij->i", hits.normal, toward), 0.1)
    albedo = room.palette.albedo(hits.part, hits.uv, distance / (camera.focal * grazing))
    up = 0.5 + 0.5 * hits.normal[:, 2:]
    below, above = room.ambient.astype(np.float32)
    arriving = (below * (1 - up) + above * up) * (0.25 + 0.75 * visibility[:, :1])
    shine = np.zeros((len(albedo), 1), np.float32)
    for k, light in enumerate(room.lights):
        way = light.centre.astype(np.float32) - hits.point
        far = _length(way)[:, None]
        way /= far
        cosine = np.maximum(np.einsum("ij,ij->i", way, hits.normal), 0)[:, None]
        strength = visibility[:, k + 1 : k + 2] / (far**2 + 0.3)
        arriving = arriving + cosine * strength * light.power.astype(np.float32)
        half = way + toward
        half /= np.maximum(_length(half)[:, None], 1e-6)
        shine += (
            np.maximum(np.einsum("ij,ij->i", half, hits.normal), 0)[:, None] ** 40
            * strength
            * float(light.power.mean())
        )
    gloss, glow = room.palette.gloss[hits.part][:, None], room.palette.glow[hits.part][:, None]
    result: np.ndarray = albedo * (arriving + glow) + gloss * shine
    return result


def _develop(linear: np.ndarray) -> np.ndarray:
    """Display values in 0..1 of linear light: a film's shoulder (Reinhard with white at 4), then gamma."""
    bright = linear * (1 + linear / 16) / (0.6 + linear)
    return np.clip(bright, 0, 1) ** np.float32(1 / 2.2)


def _sense(image: np.ndarray, rng: Rng, grain: Rng) -> np.ndarray:
    """The image (H, W, 3) in 0..1 as a cheap camera records it, uint8: vignette, contrast, noise."""
    height, width = image.shape[:2]
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    image = image * (1 - rng.uniform(0, 0.22) * (y[:, None] ** 2 + x**2) / 2)[..., None]
    contrast = rng.uniform(0.85, 1.2)
    image = (image - 0.45) * contrast + 0.45
    noise = grain.standard_normal(image.shape, np.float32)
    image = image + rng.uniform(0.002, 0.022) * (1.2 - 0.5 * image) * noise
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _length(vectors: np.ndarray) -> np.ndarray:
    """(n,) lengths of (n, 3); several times as fast as np.linalg.norm."""
    length: np.ndarray = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return length
