"""Triangle meshes of simple solids, with exact normals and surface coordinates in metres."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Mesh:
    """A surface: vertices (n, 3) in metres, unit normals (n, 3), surface coordinates uv (n, 2) in metres, faces (m, 3).

    Normals are those of the ideal surface (a sphere's, not its facets'); faces may be wound either way.
    """

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray

    def turned(self, rotation: np.ndarray) -> "Mesh":
        """The mesh rotated by a (3, 3) matrix about the origin."""
        return replace(self, vertices=self.vertices @ rotation.T, normals=self.normals @ rotation.T)

    def at(self, x: float, y: float, z: float) -> "Mesh":
        """The mesh shifted by (x, y, z)."""
        return replace(self, vertices=self.vertices + np.array([x, y, z]))


def about_z(angle: float) -> np.ndarray:
    """The (3, 3) rotation by `angle` radians about the vertical, counter-clockwise from above."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _grid(rows: int, columns: int) -> np.ndarray:
    """The (2 * (rows-1) * (columns-1), 3) faces of a grid of vertices in row-major order."""
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    return np.concatenate([corner[:, None] + (0, 1, columns), corner[:, None] + (1, columns + 1, columns)])


_CUBE = np.array([[i, j] for i, j in ((-1, -1), (1, -1), (-1, 1), (1, 1))]) / 2
_BOX_FACES = np.concatenate([np.array([[0, 1, 2], [1, 3, 2]]) + 4 * k for k in range(6)])
# Each side's u and v axes, chosen so that v is up on the four walls of the box.
_BOX_AXES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))


def box(width: float, depth: float, height: float) -> Mesh:
    """A box standing on the origin: x in ±width/2, y in ±depth/2, z in 0..height."""
    size = np.array([width, depth, height])
    vertices, normals, uv = np.zeros((24, 3)), np.zeros((24, 3)), np.zeros((24, 2))
    side = 0
    for u, v, out in _BOX_AXES:
        for sign in (-0.5, 0.5):
            rows = slice(4 * side, 4 * side + 4)
            vertices[rows, u], vertices[rows, v] = _CUBE[:, 0], _CUBE[:, 1]
            vertices[rows, out] = sign
            normals[rows, out] = 2 * sign
            uv[rows] = _CUBE * size[[u, v]] + 1.37 * side  # the shift keeps opposite sides from looking alike
            side += 1
    return Mesh(vertices * size + (0, 0, height / 2), normals, uv, _BOX_FACES)


def lathe(profile: list[tuple[float, float]], *, segments: int = 20, smooth: bool = False) -> Mesh:
    """The surface of revolution of a profile of (radius, z) points, from bottom to top.

    Every stretch of the profile is a cone with sharp ends, unless `smooth`, which rounds the joints.
    """
    points = np.array(profile, dtype=float)
    slope = np.diff(points, axis=0)
    length = np.maximum(np.hypot(*slope.T), 1e-9)
    out = np.stack([slope[:, 1], -slope[:, 0]], 1) / length[:, None]
    along = np.concatenate([[0.0], np.cumsum(length)])
    if smooth:
        out = np.concatenate([out[:1], out]) + np.concatenate([out, out[-1:]])
        out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    else:
        points, out = np.repeat(points, 2, axis=0)[1:-1], np.repeat(out, 2, axis=0)
        along = np.repeat(along, 2)[1:-1]
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    turn = np.stack([np.cos(angle), np.sin(angle)], 1)
    rows = len(points)
    vertices = np.empty((rows, segments + 1, 3))
    normals, uv = np.empty_like(vertices), np.empty((rows, segments + 1, 2))
    vertices[..., :2], vertices[..., 2] = points[:, None, :1] * turn, points[:, None, 1]
    normals[..., :2], normals[..., 2] = out[:, None, :1] * turn, out[:, None, 1]
    uv[..., 0], uv[..., 1] = angle * max(points[:, 0].max(), 0.02), along[:, None]
    faces = _grid(rows, segments + 1)
    if not smooth:  # no band between the two copies of a sharp joint
        band = np.tile(np.arange(rows - 1).repeat(segments), 2)
        faces = faces[band % 2 == 0]
    return Mesh(vertices.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), faces)


def cylinder(radius: float, height: float, *, top: float | None = None, segments: int = 20) -> Mesh:
    """A closed cylinder (or a cone's frustum with another `top` radius) standing on the origin."""
    return lathe([(0, 0), (radius, 0), (radius if top is None else top, height), (0, height)], segments=segments)


def ellipsoid(a: float, b: float, c: float, *, power: float = 2.0, segments: int = 20) -> Mesh:
    """The solid |x/a|^p + |y/b|^p + |z/c|^p <= 1 about the origin: an ellipsoid, a rounded box for `power` above 3."""
    rows = segments // 2 + 1
    tilt = np.linspace(-np.pi / 2, np.pi / 2, rows)[:, None]
    turn = np.linspace(0, 2 * np.pi, segments + 1)[None]
    way = np.stack([np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt) + 0 * turn], -1).reshape(
        -1, 3
    )
    unit = way / (np.abs(way) ** power).sum(1, keepdims=True) ** (1 / power)
    radii = np.array([a, b, c])
    normals = np.sign(unit) * np.abs(unit) ** (power - 1) / radii
    uv = np.stack([unit[:, 0] * a + unit[:, 1] * b, unit[:, 2] * c + unit[:, 1] * b * 0.5], 1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(unit * radii, normals, uv, _grid(rows, segments + 1))


def cushion(width: float, depth: float, height: float, *, power: float = 5.0) -> Mesh:
    """A box with rounded edges standing on the origin."""
    return ellipsoid(width / 2, depth / 2, height / 2, power=power, segments=28).at(0, 0, height / 2)


def limb(start: np.ndarray, end: np.ndarray, radius: float, end_radius: float) -> Mesh:
    """A rounded rod from `start` to `end`, each (3,): two balls and the cone that joins them."""
    length = float(np.linalg.norm(end - start))
    arc = np.linspace(-np.pi / 2, 0, 4)
    profile = [(radius * np.cos(t), radius * np.sin(t)) for t in arc]
    profile += [(end_radius * np.cos(t), length + end_radius * np.sin(t)) for t in -arc[::-1]]
    axis = (end - start) / max(length, 1e-9)
    aside = np.cross(axis, (1.0, 0.0, 0.0) if abs(axis[0]) < 0.7 else (0.0, 1.0, 0.0))
    aside /= np.linalg.norm(aside)
    rotation = np.stack([aside, np.cross(axis, aside), axis], 1)
    return lathe(profile, segments=14, smooth=True).turned(rotation).at(*start)
