"""What a device computes, written down there, so that it can be compared on another machine.

Core ML runs on Apple's systems alone: `edgemtl record` on a Mac, where torch need not be, keeps an artifact's maps of a
few frames in one file; `edgemtl verify ARTIFACT --recording FILE`, anywhere, holds them against the torch model and
against the target's session there. It works for every target, and keeps whether the session was the real runtime.
"""

import json
import platform
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgemtl import artifact, show
from edgemtl.artifact import Manifest
from edgemtl.device import processor
from edgemtl.device.bounds import BOUNDS, Bounds, bounds_of, compare
from edgemtl.device.camera import open_source
from edgemtl.device.predictor import Predictor, smooth_frames
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.files import dumps, keep, replacing, sha256
from edgemtl.frames import fit
from edgemtl.run import Run, form_of, run_of
from edgemtl.target import load_target
from edgemtl.tasks import Size

FORMAT = "edgemtl recording 1"
ABOUT = ("digest", "how", "device", "machine", "system", "source")  # texts that every recording has
PREFIX = "map."  # before a task's name


class Recording(NamedTuple):
    """Frames and what a device made of them."""

    about: dict[str, Any]  # what was run, by what, on which machine
    frames: np.ndarray  # uint8 (N, H, W, 3)
    maps: dict[str, np.ndarray]  # task -> (N, h, w) or (N, 3, h, w)


def record(
    path: Path, *, out: Path, frames: int = 8, source: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Writes what an artifact computes on this machine into the .npz file `out`, and gives back what it notes of it.

    Frames are the first of `source`, whatever `edgemtl demo --source` takes, or smooth random ones. UsageError where
    the artifact or the source does not open, or the file cannot be written.
    """
    if out.suffix.lower() != ".npz":
        raise UsageError(f"{out}: a recording is a .npz file")
    if frames < 1:
        raise UsageError(f"frames={frames}: at least one is needed")
    predictor = Predictor(path, device)
    manifest, session = predictor.manifest, predictor.session
    images = [fit(image, manifest.size, manifest.fit) for image in _images(source, manifest.size, frames)]
    made = [session(image) for image in show.track(images, f"record on {session.device}")]
    about = {
        "format": FORMAT,
        "artifact": path.resolve().name,
        "recipe": manifest.recipe,
        "target": manifest.target,
        "precision": manifest.precision,
        "digest": artifact.digest(manifest),
        "sha256": {name: file.sha256 for name, file in manifest.files.items()},
        "how": session.how,
        "device": session.device,
        "machine": processor.name(),
        "system": platform.platform(),
        "source": source or "smooth random frames",
        "toolchain": artifact.versions(load_target(manifest.target).packages),
    }
    stacks: dict[str, Any] = {PREFIX + task: np.stack([maps[task] for maps in made]) for task in manifest.tasks}
    with replacing(out) as temporary, temporary.open("wb") as stream:  # to a path, NumPy would add its own suffix
        np.savez_compressed(stream, about=np.array(json.dumps(about)), frames=np.stack(images), **stacks)
    show.out.print(f"{out}: {len(images)} frames, {_told(about)}, {about['device']}", highlight=False, soft_wrap=True)
    show.out.print(f"next: edgemtl verify {path} --recording {out}", highlight=False, soft_wrap=True)
    return about


def read(file: Path) -> Recording:
    """A recording from its file; UsageError where it is missing, broken or no recording."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        about = json.loads(str(arrays.pop("about")))
        images = arrays.pop("frames")
    except FileNotFoundError:
        raise UsageError(f"{file} does not exist; `edgemtl record` writes one") from None
    except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{file} is no recording of `edgemtl record`: {error}") from None
    sound = isinstance(about, dict) and about.get("format") == FORMAT and all(type(about.get(k)) is str for k in ABOUT)
    if not sound or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UsageError(f"{file} is no recording of this version, {FORMAT}")
    maps = {name.removeprefix(PREFIX): array for name, array in arrays.items()}
    return Recording(about, images, maps)


def check(path: Path, recording: Path, *, run: Path | Run | None = None, as_json: bool = False) -> dict[str, Any]:
    """How far a recording lies from the torch model, and from what this machine's session of the artifact computes.

    The result is also kept in the run's verify.json, as "ARTIFACT recorded". UsageError where the recording is of
    other files than the artifact's; CheckFailed where a map has another shape or type, or exceeds verify's bounds.
    """
    import torch

    from edgemtl.deployment import convert

    predictor = Predictor(path)
    manifest = predictor.manifest
    recorded = read(recording)
    _belongs(recorded, manifest, path, recording)
    run = run_of(path, run)
    file = run.need(form_of(manifest.precision))
    if sha256(file) != manifest.weights_sha256:
        raise CheckFailed(f"{file} has changed since {path} was converted from it (retrained?); convert again")
    reference = convert.load(run, manifest.precision)

    wanted: dict[str, dict[str, list[np.ndarray]]] = {"torch": {}, predictor.session.device: {}}
    for image in show.track(list(recorded.frames), f"verify {recording}"):
        with torch.inference_mode():
            maps = reference(torch.from_numpy(image).permute(2, 0, 1)[None].float())
        for task in manifest.tasks:
            wanted["torch"].setdefault(task, []).append(maps[task][0].numpy())
        for task, map in predictor.session(image).items():
            wanted[predictor.session.device].setdefault(task, []).append(map)
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
        "how": _told(about),
        "reference": str(file),
        "frames": len(recorded.frames),
        "source": about["source"],
        "bounds": bounds._asdict(),
        "tasks": compared["torch"],
        "against": compared,
        "ok": all(task["ok"] for tasks in compared.values() for task in tasks.values()),
    }
    _print(result, as_json)
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
    return compare(got, wanted, bounds)


def _images(source: str | None, size: Size, count: int) -> list[np.ndarray]:
    if source is None:
        return smooth_frames(size, count)
    images: list[np.ndarray] = []
    with open_source(source) as opened:
        try:
            images.extend(islice(opened, count))
        except CheckFailed as error:  # it ended; the frames that it gave are sound
            show.note(str(error))
    if not images:
        raise UsageError(f"{source} gives no frame")
    return images


def _told(about: dict[str, Any]) -> str:
    """How the recorded maps came about; what was not the target's own runtime says so."""
    return f"{'' if about['how'] == 'executed' else about['how'] + ', '}recorded on {about['machine']}"


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(dumps(result, indent=1))
        return
    rows = [
        (
            by,
            task,
            *("" if one.get(key) is None else f"{one[key]:.3g}" for key in ("max", "rms", "relative_rms")),
            f"{100 * one['agreement']:.3f} %" if "agreement" in one else "",
            "ok" if one["ok"] else "DIFFERS",
        )
        for by, tasks in result["against"].items()
        for task, one in tasks.items()
    ]
    title = "{artifact}, {how}, {device}: {frames} frames, {source}".format(**result)
    show.table(title, ("against", "task", "max", "rms", "rms / std", "same class", ""), rows, left=2)
