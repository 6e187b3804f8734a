"""A film of a walk through one rendered room: a moving camera without a camera.

    python -m edgemtl.device.walk clip.webm --frames 120 --size 240x320

A clip depends on (seed, frames, size) alone, as frames of the data set do. All its frames have the same mood, tint and
contrast, and an automatic exposure that follows what is seen; only the sensor's noise differs.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgemtl.data.scenes import CLASSES, open, room
from edgemtl.data.scenes.render import Camera, Tracer, view
from edgemtl.data.scenes.room import Room
from edgemtl.device.camera import Recorder
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError, exit_status
from edgemtl.tasks import Size

FIELD_DEG = 72.0  # of view, across
CLEARANCE_M = 0.32  # between the camera and what stands on the floor
NEAREST_M = 0.6  # of anything in view
TURN_DEG = 2.4  # from one frame to the next, at most
ROOMS, PATHS = 16, 120  # how many are tried
SEED = 3  # a room in natural colours
_STREAM = 2  # of random numbers; 0 and 1 are the data set's splits
_STILL = {CLASSES.index(name) for name in ("wall", "floor", "ceiling")}
_PERSON = CLASSES.index("person")


class Walk(NamedTuple):
    """The room's number and the cameras of all frames."""

    room: int
    cameras: list[Camera]


def walk(path: Path, *, frames: int = 120, size: Size = (240, 320), fps: float = 15, seed: int = SEED) -> None:
    """Writes a clip (.webm or .mp4) of a camera that glides through a furnished room with somebody in it.

    UsageError for a size, a count or a suffix that cannot be, where embreex is missing, or where the file cannot be
    written.
    """
    if frames < 2:
        raise UsageError(f"frames={frames}: a clip has at least 2")
    open(None, "val", (), size=size, seed=seed)  # refuses what no scene could have
    with Recorder(path, fps) as recorder:
        with show.err.status("looking for a room and a path"):
            chosen = plan(seed, frames, size)
        for image in show.track(_rendered(chosen, seed), str(path), total=frames):
            recorder.add(image)


def plan(seed: int, frames: int, size: Size) -> Walk:
    """Of some rooms, each with many paths, the walk that sees most and bumps into nothing."""
    best, best_score = None, -np.inf
    for number in range(ROOMS):
        tracer = _tracer(seed, number)
        if _PERSON not in tracer.room.semseg:
            continue
        rng = np.random.default_rng((seed, _STREAM, number, 1))
        things, somebody = _middles(tracer.room)
        for _ in range(PATHS):
            cameras = _path(tracer.room, things, somebody, rng, frames, size)
            score = _score(tracer, cameras) if cameras else -np.inf
            if cameras and score > best_score:
                best, best_score = Walk(number, cameras), score
    if best is None:
        raise UsageError(f"no room of seed {seed} has a free path of {frames} frames; try another seed or more frames")
    return best


def _path(
    space: Room, things: np.ndarray, somebody: np.ndarray, rng: np.random.Generator, frames: int, size: Size
) -> list[Camera] | None:
    """Cameras along a bent line, looking past two things and a person; None where it is crowded or turns too fast."""
    start, end = (np.array([*rng.uniform(0.4, space.size[:2] - 0.4), rng.uniform(1.3, 1.6)]) for _ in range(2))
    bend = (start + end) / 2 + rng.normal(0, 0.5, 3) * (1, 1, 0)
    first, middle, last = rng.permutation([*rng.choice(things, 2), rng.choice(somebody)])

    time = np.linspace(0, 1, frames)[:, None]
    time = time - 0.7 * np.sin(2 * np.pi * time) / (2 * np.pi)  # slow at both ends
    places = _curve(start, bend, end, time)
    back = places - _curve(first, 2 * middle - (first + last) / 2, last, time)
    level = np.hypot(back[:, 0], back[:, 1])
    back[:, 2] = np.clip(back[:, 2], -0.1 * level, 0.35 * level)  # people hold cameras level
    length = np.linalg.norm(back, axis=1)
    if _crowded(space, places) or length.min() < 0.8:
        return None
    back /= length[:, None]
    turns = np.degrees(np.arccos(np.clip((back[1:] * back[:-1]).sum(1), -1, 1)))
    if turns.max() > TURN_DEG * max(1.0, 120 / frames):  # a shorter clip may hurry
        return None
    focal = size[1] / 2 / np.tan(np.radians(FIELD_DEG) / 2)
    return [Camera(size, float(focal), place, _rotation(away)) for place, away in zip(places, back)]


def _score(tracer: Tracer, cameras: list[Camera]) -> float:
    """How much there is to see: things, depth, a person, a way to go; -inf where anything comes too near."""
    things, depths, persons = [], [], []
    for camera in cameras[:: max(1, len(cameras) // 15)]:
        grid = max(2, camera.size[1] // 24)
        rays = camera.rays()[grid // 2 :: grid, grid // 2 :: grid].reshape(-1, 3)
        hits = tracer.cast(camera.place, rays @ camera.rotation.T)
        if hits.depth.min() < NEAREST_M:
            return -np.inf
        things.append(np.count_nonzero(np.bincount(tracer.room.instance[hits.part]) > 2))
        depths.append(np.median(hits.depth))
        person = np.mean(tracer.room.semseg[hits.part] == _PERSON)
        persons.append(0.015 < person < 0.12)  # there, and not in the way
    way = np.linalg.norm(cameras[-1].place - cameras[0].place)
    turn = np.degrees(np.arccos(np.clip(cameras[0].rotation[:, 2] @ cameras[-1].rotation[:, 2], -1, 1)))
    return float(np.mean(things) + np.mean(depths) + 3 * np.mean(persons) + min(way, 2.0) + min(turn, 90) / 45)


def _rendered(chosen: Walk, seed: int) -> Iterator[np.ndarray]:
    """The images in order, made by other processes."""
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(partial(_frame, seed, chosen.room), range(len(chosen.cameras)), chosen.cameras)


def _frame(seed: int, number: int, index: int, camera: Camera) -> np.ndarray:
    """(H, W, 3) uint8 RGB: frame `index` of a walk through room `number`."""
    settings, grain = (np.random.default_rng((seed, _STREAM, number, *which)) for which in ((2,), (3, index)))
    return view(_tracer(seed, number), camera, settings, grain=grain).sample["image"]


@lru_cache(maxsize=1)
def _tracer(seed: int, number: int) -> Tracer:
    return Tracer(room.random_room(np.random.default_rng((seed, _STREAM, number))))


def _middles(space: Room) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) and (m, 3): the middles of the boxes about all things, persons among them, and about the persons."""
    middles, names = [], []
    instance = space.instance[space.part]
    for number in np.unique(space.instance):
        name = int(space.semseg[space.instance == number][0])
        if name not in _STILL:
            vertices = space.vertices[space.faces[instance == number]].reshape(-1, 3)
            middles.append((vertices.min(0) + vertices.max(0)) / 2)
            names.append(name)
    return np.array(middles), np.array(middles)[np.array(names) == _PERSON]


def _crowded(space: Room, places: np.ndarray) -> bool:
    """Whether any of the places (n, 3) is too near to a wall or to what stands on the floor."""
    x, y = places[:, :1], places[:, 1:2]
    a, c, b, d = space.footprints.T
    gap = np.hypot(np.maximum(0, np.maximum(a - x, x - b)), np.maximum(0, np.maximum(c - y, y - d)))
    wall = np.minimum(places[:, :2], space.size[:2] - places[:, :2])
    return bool(gap.min(initial=np.inf) < CLEARANCE_M or wall.min() < CLEARANCE_M)


def _curve(start: np.ndarray, bend: np.ndarray, end: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(n, 3) points of a quadratic Bezier curve at times (n, 1) from 0 to 1."""
    return (1 - time) ** 2 * start + 2 * time * (1 - time) * bend + time**2 * end


def _rotation(back: np.ndarray) -> np.ndarray:
    """(3, 3) a level camera's axes: right, up and `back` (3,), which has length 1."""
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], 1)


def _size(text: str) -> Size:
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 240x320")
    return int(height), int(width)


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m edgemtl.device.walk", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the clip to write, .webm or .mp4")
    parser.add_argument("--frames", type=int, default=120, metavar="N", help="default: 120")
    parser.add_argument("--size", type=_size, default=(240, 320), metavar="HxW", help="default: 240x320")
    parser.add_argument("--fps", type=float, default=15, metavar="F", help="frames a second (default: 15)")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help=f"of room and path (default: {SEED})")
    args = parser.parse_args()
    return exit_status(lambda: walk(args.out, frames=args.frames, size=args.size, fps=args.fps, seed=args.seed))


if __name__ == "__main__":
    sys.exit(_main())
