"""What a device computed, as `edgemtl record` wrote it down, held against torch and a session here."""

from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.device.bounds import BOUNDS, COLUMNS, Bounds, bounds_of, cells, differences
from edgemtl.device.predictor import Predictor
from edgemtl.device.record import Recording, read, told
from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import keep, sha256
from edgemtl.quantization import weights
from edgemtl.records import artifact
from edgemtl.records.artifact import Manifest
from edgemtl.records.run import Run, form_of, run_of
from edgemtl.records.target import Session


def check_recording(
    path: Path, recording: Path, *, run: Path | Run | None = None, as_json: bool = False
) -> dict[str, Any]:
    """How far a recording lies from the torch model, and from what this machine's session of the artifact computes.

    The result is also kept in the run's verify.json, as "ARTIFACT recorded". UsageError where the recording is of
    other files than the artifact's; CheckFailed where a map has another shape or type, or exceeds verify's bounds.
    """
    predictor = Predictor(path)
    manifest = predictor.manifest
    recorded = read(recording)
    _belongs(recorded, manifest, path, recording)
    run = run_of(path, run)
    form = form_of(manifest.precision)
    file = run.need(form)
    if sha256(file) != manifest.weights_sha256:
        raise CheckFailed(f"{file} has changed since {path} was converted from it (retrained?); convert again")
    sessions: dict[str, Session] = {"torch": weights.session(run, form, "cpu")}
    sessions[predictor.session.device] = predictor.session

    wanted: dict[str, dict[str, list[np.ndarray]]] = {by: {task: [] for task in manifest.tasks} for by in sessions}
    for image in show.track(list(recorded.frames), f"verify {recording}"):
        for by, session in sessions.items():
            maps = session(image)
            for task, of_frames in wanted[by].items():
                of_frames.append(maps[task])
    # A device's kernels add in orders of their own, so a target's bounds hold here only where they are the wider ones.
    kind = "half" if manifest.precision == "int8" else manifest.precision
    own, usual = bounds_of(manifest, kind != "half"), BOUNDS[kind]
    bounds = Bounds(max(own.rms, usual.rms), max(own.largest, usual.largest), min(own.agreement, usual.agreement))
    compared = {
        by: {task: _compared(recorded.maps[task], np.stack(maps[task]), bounds, task) for task in manifest.tasks}
        for by, maps in wanted.items()
    }
    about = recorded.about
    result = {
        "artifact": str(path),
        "digest": about["digest"],
        "recording": str(recording),
        "device": about["device"],
        "how": told(about),
        "reference": str(file),
        "frames": len(recorded.frames),
        "source": about["source"],
        "bounds": bounds._asdict(),
        "tasks": compared["torch"],
        "against": compared,
        "ok": all(task["ok"] for tasks in compared.values() for task in tasks.values()),
    }
    show.result(result, as_json, _print)
    unkept = keep(run.verified, f"{path.resolve().name} recorded", result)
    wrong = [f"{task} against {by}" for by, tasks in compared.items() for task, one in tasks.items() if not one["ok"]]
    if wrong:
        text = f"{recording} differs beyond the bounds of {manifest.precision} in {', '.join(wrong)}"
        raise CheckFailed("; ".join([text, *unkept]))
    if unkept:
        raise UsageError(unkept[0])
    return result


def _belongs(recorded: Recording, manifest: Manifest, path: Path, file: Path) -> None:
    """UsageError unless a recording was made from exactly these files and has every map."""
    if recorded.about["digest"] != artifact.digest(manifest):
        raise UsageError(f"{file} was recorded from other files than those of {path}; record again")
    if recorded.frames.shape[1:] != (*manifest.size, 3):
        raise UsageError(f"{file} has frames of shape {recorded.frames.shape[1:]}, {path} takes {manifest.size}")
    for task in manifest.tasks:
        if task not in recorded.maps or len(recorded.maps[task]) != len(recorded.frames):
            raise UsageError(f"{file} has not a map of {task} for each of its {len(recorded.frames)} frames")


def _compared(got: np.ndarray, wanted: np.ndarray, bounds: Bounds, task: str) -> dict[str, Any]:
    if got.shape != wanted.shape or got.dtype.kind != wanted.dtype.kind:
        raise CheckFailed(f"{task} was recorded as {got.dtype} {got.shape}, expected {wanted.dtype} {wanted.shape}")
    return differences(got, wanted, bounds)


def _print(result: dict[str, Any]) -> None:
    rows = [
        (by, task, *cells(one), "ok" if one["ok"] else "DIFFERS")
        for by, tasks in result["against"].items()
        for task, one in tasks.items()
    ]
    title = "{artifact}, {how}, {device}: {frames} frames, {source}".format(**result)
    show.table(title, ("against", "task", *COLUMNS, ""), rows, left=2)
