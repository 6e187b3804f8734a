"""What a room is made of: objects put together from painted meshes."""

from dataclasses import dataclass, field

from edgemtl.data.scenes.shapes import Mesh
from edgemtl.data.scenes.textures import Paint

Part = tuple[Mesh, Paint, int]  # the last is the human part, 0 for things


@dataclass
class Thing:
    """One object: its class name, its parts, its width, depth and height, and where things or people may rest on it."""

    name: str
    size: tuple[float, float, float]
    parts: list[Part] = field(default_factory=list)
    top: tuple[float, float, float] | None = None  # width, depth, height of a free surface
    seats: list[tuple[float, float, float]] = field(default_factory=list)  # where hips rest
    bulb: float | None = None  # height of a light

    def add(self, mesh: Mesh, paint: Paint, body: int = 0) -> None:
        """One more part; `body` is its human part."""
        self.parts.append((mesh, paint, body))
