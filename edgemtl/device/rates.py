"""Tasks at rates of their own: depth of every frame, normals of every fourth; in between their last map is shown."""

import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from edgemtl.ground.errors import UsageError, unknown

MANY = 10_000  # frames that are looked at for what is due together
Only = Callable[[np.ndarray, Collection[str]], dict[str, np.ndarray]]  # a frame and tasks -> the maps of these


class Maps(dict[str, np.ndarray]):
    """Every task's map; `ages` says how many frames ago it was computed, 0 of those that are of this frame."""

    ages: dict[str, int]


def ages(maps: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many frames ago each map was computed; empty where all tasks are computed of every frame."""
    return maps.ages if isinstance(maps, Maps) else {}


class Rates:
    """Which tasks are due in which frame.

    In the first frame all are. Tasks of the same rate take turns after that, so that frames take equally long: of
    normals=4 and edge=4 one is due two frames after the other.

    >>> rates = Rates(["depth", "normals", "edge"], {"normals": 4, "edge": 4})
    >>> [rates.due(frame) for frame in range(4)]
    [['depth', 'normals', 'edge'], ['depth'], ['depth', 'edge'], ['depth']]
    """

    def __init__(self, tasks: Iterable[str], every: Mapping[str, int]) -> None:
        self.every = {task: every.get(task, 1) for task in tasks}
        for task, number in every.items():
            if task not in self.every:
                raise unknown("task", task, self.every)
            if number < 1:
                raise UsageError(f"{task}={number}: every how many frames is a positive whole number")
        self._turn: dict[str, int] = {}
        for number in set(self.every.values()):
            same = [task for task, its in self.every.items() if its == number]
            self._turn |= {task: index * number // len(same) for index, task in enumerate(same)}

    def due(self, frame: int) -> list[str]:
        """The tasks to compute in the frame of that number, counted from 0."""
        return [task for task, number in self.every.items() if not frame or (frame - self._turn[task]) % number == 0]

    @property
    def sets(self) -> list[frozenset[str]]:
        """The sets of tasks that are due together, but for all; of rates that hardly ever meet, not every one."""
        turn = min(math.lcm(*self.every.values()), MANY)
        together = dict.fromkeys(frozenset(self.due(frame)) for frame in range(1, turn + 1))
        return [tasks for tasks in together if 0 < len(tasks) < len(self.every)]


class Paced:
    """Every task's map of each frame in turn, computed by `only` when it is due, else as it was; for one stream."""

    def __init__(self, only: Only, rates: Rates) -> None:
        self._only, self._rates = only, rates
        self._frame = 0
        self._maps: dict[str, np.ndarray] = {}
        self._made: dict[str, int] = {}  # in which frame
        self._one = threading.Lock()

    def __call__(self, frame: np.ndarray) -> Maps:
        """The maps of the next frame."""
        with self._one:
            due = self._rates.due(self._frame)
            self._maps |= self._only(frame, due)
            self._made |= dict.fromkeys(due, self._frame)
            maps = Maps({task: self._maps[task] for task in self._rates.every})
            maps.ages = {task: self._frame - made for task, made in self._made.items()}
            self._frame += 1
            return maps


def parse(settings: Iterable[str]) -> dict[str, int]:
    """What settings such as "normals=4" say; UsageError where one says something else."""
    rates: dict[str, int] = {}
    for setting in settings:
        task, equals, number = setting.partition("=")
        if not (task and equals and number.isdecimal()):
            raise UsageError(f"--every takes TASK=N, such as normals=4, got {setting!r}")
        if task in rates:
            raise UsageError(f"--every names {task} twice")
        rates[task] = int(number)
    return rates
