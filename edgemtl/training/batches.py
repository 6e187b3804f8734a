"""Training batches in which everything random is a pure function of (seed, number of the sample).

A run draws one endless stream of samples: number n is entry n % length of the permutation of epoch n // length. Neither
resuming nor the number of workers or processes changes what sample n is.
"""

import signal
import threading
import time
from functools import cache
from typing import Any, Generator, Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgemtl import objectives
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.stop import Stop, Stopped
from edgemtl.networks.prepare import Normalise
from edgemtl.networks.session import several
from edgemtl.records.recipe import Recipe
from edgemtl.records.samples import Held
from edgemtl.tasks import Task
from edgemtl.training.augment import augment

LOOK = 1  # seconds between two checks, while a batch does not come, whether to go on
WAITED = 30  # seconds of waiting after which a note is printed, and again each time they have doubled
HINTS = {
    "SIGKILL": ", as a system does that runs out of memory",
    "SIGBUS": ", as happens where shared memory (/dev/shm) is full",
}


class Lost(Exception):
    """A process that reads samples died, and its batch is lost."""


class Stream(Sampler[list[tuple[int, int]]]):
    """Yields this process's micro-batches, lists of (sample number, index), from a given iteration on.

    Every micro-batch of the run is cut into one slice for each process. Together the processes see the samples that
    one process would see.
    """

    def __init__(self, length: int, recipe: Recipe, start: int, rank: int = 0, processes: int = 1) -> None:
        training = recipe.training
        parts = training.accumulate * processes
        if training.batch % parts:
            raise UsageError(
                f"training.batch={training.batch} must be a multiple of training.accumulate x processes"
                f" = {training.accumulate} x {processes}"
            )
        self.length, self.seed, self.rank, self.processes = length, training.seed, rank, processes
        self.slice = training.batch // parts
        self.first, self.end = start * training.batch, training.iterations * training.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, int)
        for begin in range(self.first + self.rank * self.slice, self.end, self.processes * self.slice):
            batch = []
            for number in range(begin, begin + self.slice):
                if number // self.length != epoch:
                    epoch = number // self.length
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
                batch.append((number, int(order[number % self.length])))
            yield batch

    def __len__(self) -> int:
        return (self.end - self.first) // (self.processes * self.slice)


class Augmented(Dataset[dict[str, np.ndarray] | UsageError]):
    """Samples by (number, index): augmented with a generator seeded by the number, labels at size / label_stride.

    A task that a sample has no label for gets one whose pixels are all ignored. A sample that cannot be read is
    returned as its UsageError, because a DataLoader would hide a raised one in a traceback.
    """

    def __init__(self, samples: Any, recipe: Recipe) -> None:
        self.samples, self.recipe = samples, recipe

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray] | UsageError:
        number, index = key
        try:
            return self._view(self.samples[index], number)
        except UsageError as error:
            return error

    def _view(self, sample: dict[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
        recipe = self.recipe
        stride = recipe.training.label_stride
        rng = np.random.default_rng([recipe.training.seed, number])
        view = augment(sample, recipe.size, recipe.augment, recipe.tasks, rng)
        small = (recipe.size[0] // stride, recipe.size[1] // stride)
        labels = {
            name: task.resize(view[name], small) if name in view else task.unlabelled(small)
            for name, task in recipe.tasks.items()
        }
        return {"image": view["image"], **labels}


def loader(
    samples: Any,
    recipe: Recipe,
    start: int,
    *,
    rank: int = 0,
    processes: int = 1,
    pin: bool = False,
    stop: Stop | None = None,
) -> Generator[dict[str, Tensor], None, None]:
    """Micro-batches of stacked arrays, uint8 images (B, H, W, 3) and labels, from iteration `start` to the last.

    Worker processes live from the first batch until the generator is closed or at its end. Close it: they ignore
    SIGTERM, and the interpreter would wait for them for ever. Raises the UsageError of a sample, Lost if a worker died,
    and Stopped if somebody asked to stop while no batch came.
    """
    workers = recipe.training.workers
    batches = DataLoader(
        Augmented(Held(samples) if recipe.training.cache else samples, recipe),
        batch_sampler=Stream(len(samples), recipe, start, rank, processes),
        collate_fn=stack,
        num_workers=workers,
        worker_init_fn=_quiet,
        generator=torch.Generator(),  # its own, or starting an iteration would draw from the one that drives dropout
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        timeout=LOOK if workers else 0,
    )
    return _single_threaded(_draw(batches, stop))


def _single_threaded(batches: Generator[Any, None, None]) -> Generator[Any, None, None]:
    """The same batches; until they end, OpenCV has one thread."""
    threads = cv2.getNumThreads()
    # Not in the workers, because OpenCV's threads do not survive a fork: a child that needs them waits for ever.
    cv2.setNumThreads(1)
    try:
        yield from batches
    finally:
        cv2.setNumThreads(threads)


def _draw(batches: DataLoader[Any], stop: Stop | None) -> Generator[dict[str, Tensor], None, None]:
    usual = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None  # Windows has none
    drawn = iter(batches)
    # DataLoader installs a handler for ended children and never removes it. It raises wherever the main process is, for
    # example in the middle of a step; `_wait` notices a dead worker too. And some kernels (a virtual 6.18) kill a
    # process with AMX state at any signal.
    if usual is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, usual)
    workers = list(getattr(drawn, "_workers", ()))
    try:
        while True:
            try:
                batch = _wait(drawn, workers, stop)
            except StopIteration:
                return
            if isinstance(batch, UsageError):
                raise batch
            yield batch
    except (Lost, Stopped):
        for worker in workers:  # which may never answer
            worker.kill()
            worker.join(LOOK)
        raise
    finally:
        del drawn  # which ends the workers


def _wait(drawn: Iterator[Any], workers: list[Any], stop: Stop | None) -> Any:
    """The next batch, however long it takes; StopIteration, Lost, or Stopped."""
    begin, tell = time.monotonic(), float(WAITED)
    while True:
        try:
            return next(drawn)
        except StopIteration:
            raise
        except Exception as error:
            dead = [worker for worker in workers if not worker.is_alive()]
            if dead:
                raise Lost(f"a process that reads samples {_end(dead[0].exitcode)}") from error
            if not str(error).startswith("DataLoader timed out after"):
                raise
        if stop is not None and stop.asked:
            raise Stopped("while it waited for a batch")
        waited = time.monotonic() - begin
        if waited >= tell:
            tell *= 2
            show.note(
                f"no batch for {waited:.0f} s: {len(workers)} processes read samples, and none is ready; is the disk or"
                " the memory too slow? Ctrl-C stops"
            )


def _end(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}{HINTS.get(name, '')}"


def stack(samples: list[dict[str, np.ndarray] | UsageError]) -> dict[str, Tensor] | UsageError:
    """Arrays of equal shape stacked along a new first axis, or the first error."""
    good = []
    for sample in samples:
        if isinstance(sample, UsageError):
            return sample
        good.append(sample)
    return {name: torch.from_numpy(np.stack([sample[name] for sample in good])) for name in good[0]}


def labels(batch: dict[str, Tensor], tasks: dict[str, Task]) -> dict[str, Tensor]:
    """The labels of a stacked batch as each task's objective has them."""
    return {name: objectives.of(name).tensor(batch[name]) for name in tasks}


def normalise(frames: Tensor) -> Tensor:
    """(B, 3, H, W) float32 of uint8 RGB frames (B, H, W, 3): what the deployed network makes of them, to the bit.

    Channels come last in memory.
    """
    return _deployed(frames.device)(several(frames))


@cache
def _deployed(device: torch.device) -> Normalise:
    return Normalise().to(device)


def _quiet(worker: int) -> None:
    # The main process decides when to stop; a worker that dies of the terminal's Ctrl-C would take it down mid-step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
