"""Artifacts side by side: on a shared machine only ratios taken in one run mean anything."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.device import selftest
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.records.frames import fit
from edgemtl.records.run import Run
from edgemtl.tasks import numbered

BLOCK = 10  # calls in a row: runtimes' thread pools spin for a while, so switching at every call would disturb the next
WARMUP = 5


def in_turns(
    paths: Sequence[Path], *, seconds: float = 5.0, device: str | None = None, untested: bool = False
) -> list[dict[str, Any]]:
    """Time per frame, model alone, of several artifacts or runs, measured in turns in this one process.

    A run folder stands for its float network in torch, eager, in deployment form, on the CPU. Each gets about
    `seconds`. Results in the order given: path, device, p50_ms, p95_ms, speed (times as fast as the first by p50).
    UsageError for what cannot be run. Artifacts must pass their self-tests on this machine first, unless they may be
    `untested`.
    """
    if seconds <= 0:
        raise UsageError(f"seconds={seconds:g}: a positive time is needed")
    calls = [_opened(Path(path), device, untested) for path in paths]
    times: list[list[float]] = [[] for _ in calls]
    for _, call in calls:
        for _ in range(WARMUP):
            call()
    while any(sum(seconds_of) < seconds for seconds_of in times):
        for seconds_of, (_, call) in zip(times, calls, strict=True):
            for _ in range(BLOCK if sum(seconds_of) < seconds else 0):
                begin = time.perf_counter()
                call()
                seconds_of.append(time.perf_counter() - begin)
    p50, p95 = 1000 * np.array([np.percentile(seconds_of, [50, 95]) for seconds_of in times]).T
    return [
        {"path": str(path), "device": name, "p50_ms": float(a), "p95_ms": float(b), "speed": float(p50[0] / a)}
        for path, (name, _), a, b in zip(paths, calls, p50, p95, strict=True)
    ]


def show_table(results: list[dict[str, Any]]) -> None:
    """Prints what `compare` measured."""
    rows = [
        (Path(r["path"]).resolve().name, r["device"], f"{r['p50_ms']:.2f}", f"{r['p95_ms']:.2f}", f"{r['speed']:.2f} x")
        for r in results
    ]
    show.table("side by side, model alone", ("", "device", "p50 ms", "p95 ms", "as fast as the first"), rows)


def _opened(path: Path, device: str | None, untested: bool) -> tuple[str, Callable[[], object]]:
    predictor = selftest.open_tested(path, "cpu" if Run(path).exists else device, untested=untested)
    photo = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    frame = fit(photo, predictor.manifest.size)
    with numbered(0, str(path)):
        predictor.maps(frame)
    return predictor.session.device, lambda: predictor.session(frame)
