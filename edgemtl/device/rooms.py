"""`scenes://`: a camera that pans through rendered rooms, one after another without end, the time in each frame."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np

from edgemtl.device.capture import Frames, Source, Wanted
from edgemtl.device.stamp import stamp
from edgemtl.ground.errors import UsageError
from edgemtl.tasks import Size

SIZE: Size = (240, 320)
RATE = 30.0
SHOWN_S = 4.0  # of each room
WIDER = 1.25  # than a frame is what is rendered, so that there is something to pan over


def open_rooms(text: str, wanted: Wanted) -> Source:
    """A live source of rendered rooms; `text` is their seed, 0 where it is empty."""
    if text and not text.isdecimal():
        raise UsageError(f"scenes://{text}: a seed is a whole number, such as scenes://3")
    from edgemtl.data import scenes  # which needs Embree

    height, width = wanted.size or SIZE
    size = math.ceil(height * WIDER), math.ceil(width * WIDER)
    rooms = scenes.open(None, "val", (), val=1 << 30, seed=int(text or 0), size=size)
    rate = wanted.rate or RATE
    first = rooms[0]["image"]

    def frames() -> Frames:
        with ThreadPoolExecutor(1, "render") as renderer:
            room, due = first, time.perf_counter()
            for number in count(1):
                following = renderer.submit(rooms.__getitem__, number)
                for step in range(max(1, round(SHOWN_S * rate))):
                    yield _pan(room, (height, width), step / (SHOWN_S * rate))
                    due = max(due + 1 / rate, time.perf_counter() - 1 / rate)  # what was late is not made up for
                    time.sleep(max(0.0, due - time.perf_counter()))
                while not following.done():  # a slow machine shows a room for longer
                    yield _pan(room, (height, width), 1.0)
                    time.sleep(1 / rate)
                room = following.result()["image"]

    return Source(f"scenes://{text}", frames(), size=(height, width), fps=rate, live=True, wanted=wanted)


def _pan(room: np.ndarray, size: Size, progress: float) -> np.ndarray:
    """What a frame sees of a room, from one side to the other and a little down and up, stamped with the time."""
    free = room.shape[0] - size[0], room.shape[1] - size[1]
    top = round(free[0] * (0.5 + 0.5 * math.sin(2 * math.pi * progress)))
    left = round(free[1] * (0.5 - 0.5 * math.cos(math.pi * progress)))
    frame = room[top : top + size[0], left : left + size[1]].copy()
    stamp(frame)
    return frame
