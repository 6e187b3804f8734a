"""What a training sample costs, and how many a second the loader delivers with some numbers of workers.

python tests/benchmarks/data_loading.py [--recipe NAME] [--set key=value ...] [--data DIR] [--workers N ...]

Processor time, unlike the clock's, is the same on a busy machine: samples / second of one worker is what it says, and
`training.workers` should be at least the samples that the network takes in a second divided by it.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import measure
import numpy as np

from edgemtl.ground import registry, show
from edgemtl.records import recipe
from edgemtl.records.recipe import Recipe
from edgemtl.training.augment import augment
from edgemtl.training.batches import Augmented, loader, stack


def main() -> None:
    parser = measure.options(__doc__, recipe="nyud_edge", samples=64, workers=(0, 1, 2), batches=12)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEMTL_DATA"), help="the data set's folder")
    arguments = parser.parse_args()
    measure.begin(arguments)
    chosen = recipe.load(arguments.recipe, arguments.set)
    data = chosen.data
    samples = registry.load("data", data.name).open(arguments.data, "train", tuple(chosen.tasks), **data.options)
    parts = stages(chosen, samples, arguments.samples)
    total = sum(parts.values())
    rows = [(name, 1000 * seconds, f"{seconds / total:.0%}") for name, seconds in parts.items()]
    rows += [("all", 1000 * total, f"{1 / total:.0f} samples / s")]
    size = "x".join(map(str, chosen.size))
    show.table(f"one sample of {chosen.name} at {size}, in one worker", ("stage", "processor ms", "share"), rows)

    delivered = {count: rate(chosen, samples, count, arguments.batches) for count in arguments.workers}
    batch = chosen.training.batch
    show.table(
        f"the loader alone, batches of {batch}, {os.cpu_count()} processors, whatever else runs on them",
        ("workers", "samples / s", "ms a batch"),
        [(count, each, 1000 * batch / each) for count, each in delivered.items()],
    )
    measure.write(arguments.json, recipe=chosen.name, stage_seconds=parts, samples_per_second=delivered)


def stages(chosen: Recipe, samples: Any, count: int) -> dict[str, float]:
    """Processor seconds of each stage, the mean over the samples."""
    cv2.setNumThreads(1)
    spent = dict.fromkeys(("read and decode", "augment", "labels' size", "stack"), 0.0)
    size = tuple(length // chosen.training.label_stride for length in chosen.size)

    def timed(stage: str, run: Callable[[], Any]) -> Any:
        begin = time.thread_time()
        made = run()
        spent[stage] += time.thread_time() - begin
        return made

    whole = Augmented(samples, chosen)
    for number in range(count):
        index = number % len(samples)
        sample = timed("read and decode", lambda index=index: samples[index])
        rng = np.random.default_rng([chosen.training.seed, number])
        options = (chosen.size, chosen.augment, chosen.tasks, rng)
        view = timed("augment", lambda sample=sample, options=options: augment(sample, *options))
        timed("labels' size", lambda view=view: [t.resize(view[n], size) for n, t in chosen.tasks.items() if n in view])
        timed("stack", lambda made=whole[number, index]: stack([made]))
    return {stage: seconds / count for stage, seconds in spent.items()}


def rate(chosen: Recipe, samples: Any, workers: int, batches: int) -> float:
    """Samples / second that the loader delivers to somebody who only waits, after its first batch."""
    training = chosen.training.model_copy(update={"workers": workers, "iterations": batches + 1, "accumulate": 1})
    with closing(loader(samples, chosen.model_copy(update={"training": training}), 0)) as delivered:
        next(delivered)
        begin = time.perf_counter()
        for _ in range(batches):
            next(delivered)
        return batches * training.batch / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
