"""Runs a model over files: writes a picture for each frame and, on request, the predictions as arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgemtl.device.inputs import named_frames
from edgemtl.device.predictor import Predictor
from edgemtl.device.result import Result
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError, unknown


def predict(
    predictor: Predictor,
    sources: Sequence[str],
    *,
    out: Path,
    save: Sequence[str] = (),
    view: Literal["tiles", "overlay", "plain", "none"] = "tiles",
    limit: int | None = None,
) -> list[Path]:
    """The files that were written into `out`: NAME.png for every frame of the sources, and NAME_TASK.npy of `save`.

    UsageError for a task that the model does not have, a source that does not exist, or two frames of one name.
    """
    tasks = predictor.manifest.tasks
    for task in save:
        if task not in tasks:
            raise unknown("task", task, tasks)
    if view == "none" and not save:
        raise UsageError("--view none writes no picture, and --save names no task: there would be nothing to write")
    written: list[Path] = []
    taken: set[str] = set()
    with show.progress() as bar:
        progress = bar.add_task("predicting", total=limit, status="")
        for name, frame in named_frames(sources):
            if name in taken:
                raise UsageError(f"two frames are called {name}; give their sources one by one, each its own --out")
            taken.add(name)
            predictions = predictor.decode(predictor.maps(frame), frame.shape[:2])
            written += _written(Result(predictions, frame, tasks, name), out, save, view)
            bar.update(progress, advance=1, status=name)
            if limit is not None and len(taken) >= limit:
                break
    show.line(f"{len(taken)} frames, {len(written)} files in {out}")
    return written


def _written(result: Result, out: Path, save: Sequence[str], view: str) -> list[Path]:
    files = []
    if view in ("tiles", "overlay"):
        files.append(result.save(out / f"{result.name}.png", view=view))  # type: ignore[arg-type]
    elif view == "plain":
        files += [result.save(out / f"{result.name}_{task}.png", view="plain", task=task) for task in result]
    return files + [result.save(out / f"{result.name}_{task}.npy", task=task) for task in save]
