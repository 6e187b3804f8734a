"""Runs beside each other: the scores of their float weights, delta-m against baselines, and their learning curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgemtl.device.evaluate import read_scores
from edgemtl.ground import plots, show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_lines
from edgemtl.records.run import Run
from edgemtl.tasks import Task, delta_m

SMOOTH = 3  # journal lines that a curve averages over


class Line(NamedTuple):
    """One run: its name, iterations trained, task -> headline score, delta-m in percent."""

    name: str
    iterations: int
    headlines: dict[str, float]
    delta_m: float | None = None


def scoreboard(runs: Sequence[Path], *, baseline: Sequence[Path] = ()) -> tuple[list[Line], dict[str, Task]]:
    """A line for every run, baselines first, and the tasks of all of them.

    Delta-m compares a run with the baselines' scores of its tasks, each of which exactly one baseline must have: give
    one multi-task run or one single-task run per task. UsageError where a run has no scores over the whole val split,
    or was scored on another number of frames.
    """
    every = [*baseline, *[run for run in runs if run not in baseline]]
    tasks: dict[str, Task] = {}
    lines: list[Line] = []
    frames: dict[int, Path] = {}
    base: dict[str, float] = {}
    for run in every:
        folder = Run(run)
        recipe = folder.recipe
        scores = read_scores(folder.scores, "float")
        if not scores:
            raise UsageError(f"{run} has no scores of its float weights; `edgemtl evaluate {run}` makes them")
        frames[scores["frames"]] = run
        tasks |= recipe.tasks
        headlines = {name: scores["tasks"][name][task.headline] for name, task in recipe.tasks.items()}
        iterations = max((line["iteration"] for line in read_lines(folder.metrics)), default=0)
        lines.append(Line(run.resolve().name, iterations, headlines))
        if run in baseline:
            twice = base.keys() & headlines.keys()
            if twice:
                raise UsageError(f"two baselines have the task {min(twice)}; give one for each")
            base |= headlines
    if len(frames) > 1:
        raise UsageError(f"these were scored on {' and '.join(f'{n} frames ({run})' for n, run in frames.items())}")
    for i, line in enumerate(lines[len(baseline) :], len(baseline)):
        if baseline:
            missing = [name for name in line.headlines if name not in base]
            if missing:
                raise UsageError(f"no baseline has the task {missing[0]} of {line.name}")
            lines[i] = line._replace(delta_m=delta_m(line.headlines, base, {n: tasks[n] for n in line.headlines}))
    return lines, tasks


def show_table(lines: Sequence[Line], tasks: dict[str, Task], markdown: bool = False) -> None:
    """Prints the lines, for a terminal or as a Markdown table."""
    header = ["run", *(task.heading for task in tasks.values()), "delta-m", "iterations"]
    rows = [
        [line.name, *(f"{score:.4g}" if (score := line.headlines.get(name, np.nan)) == score else "" for name in tasks),
         "" if line.delta_m is None else f"{line.delta_m:+.2f} %", str(line.iterations)]
        for line in lines
    ]  # fmt: skip
    if not markdown:
        show.table("val, float weights", header, rows)
        return
    for row in [header, ["---"] * len(header), *rows]:
        print(f"| {' | '.join(row)} |")


def draw_curves(runs: Sequence[Path], tasks: dict[str, Task], file: Path) -> None:
    """Writes an SVG: for each task its training loss over epochs, a line per run that has it."""
    with plots.figure(3 * len(tasks), 3.2, columns=len(tasks)) as (figure, [axes]):
        for axis, (name, task) in zip(axes, tasks.items(), strict=True):
            later: list[float] = []
            for run in runs:
                steps = [line for line in read_lines(Run(run).metrics) if name in line.get("loss", ())]
                if not steps:
                    continue
                loss = [line["loss"][name] for line in steps]
                smooth = [float(np.mean(loss[max(0, i + 1 - SMOOTH) : i + 1])) for i in range(len(loss))]
                axis.plot([line["epoch"] for line in steps], smooth, label=run.resolve().name)
                later += smooth[len(smooth) // 6 :]
            axis.set_title(task.title)
            axis.set_xlabel("epoch")
            if later:  # the steep beginning may leave the picture
                axis.set_ylim(0.97 * min(later), 1.03 * max(later))
                axis.legend()
        axes[0].set_ylabel("training loss")
        plots.save(figure, file)
