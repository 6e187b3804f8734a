"""A session of several networks, each cut to a set of tasks: what nobody asked for is not computed."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from edgemtl.records.target import How, Session


class Sets(Session):
    """The network of the smallest of the `sets` that has all tasks which are asked for, else the `whole` one."""

    def __init__(self, whole: Session, tasks: Iterable[str], sets: Mapping[frozenset[str], Session]) -> None:
        self.how: How = whole.how
        listed = ", ".join("+".join(sorted(known)) for known in sets)
        self.device, self.float32 = f"{whole.device}, also for {listed} alone" if sets else whole.device, whole.float32
        self._whole, self._tasks = whole, dict.fromkeys(tasks)
        self._sets = {known: sets[known] for known in sorted(sets, key=len)}

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """Every task's map, each by the smallest network that has it, so that a self-test runs what will run."""
        maps: dict[str, np.ndarray] = {}
        for session in (*self._sets.values(), self._whole):
            if session is not self._whole or not maps.keys() >= self._tasks.keys():
                maps = session(frame) | maps
        return {task: maps[task] for task in self._tasks}

    def only(self, frame: np.ndarray, tasks: Collection[str]) -> dict[str, np.ndarray]:
        """These tasks' maps alone."""
        if not tasks:
            return {}
        session = next((its for known, its in self._sets.items() if known.issuperset(tasks)), self._whole)
        return {task: map for task, map in session(frame).items() if task in tasks}
