"""A camera that makes a frame when it is told to, so that no test has to guess how long anything takes."""

from collections.abc import Callable, Iterator
from threading import Semaphore

import numpy as np

LONG_S = 60  # nobody waits so long, unless something is broken


class Steps:
    """`frames` for a Source in one thread, `make` in another; what `make` made, the source holds when it returns."""

    def __init__(self) -> None:
        self._told, self._taken = Semaphore(0), Semaphore(0)

    def frames(self, picture: Callable[[int], np.ndarray], count: int) -> Iterator[np.ndarray]:
        for index in range(count):
            if not self._told.acquire(timeout=LONG_S):
                return
            yield picture(index)
            self._taken.release()  # asked for the next one: this one is held

    def make(self, count: int = 1) -> None:
        for _ in range(count):
            self._told.release()
            assert self._taken.acquire(timeout=LONG_S)
