"""Records what a device computes, so that another machine can compare it.

Core ML runs only on Apple's systems. On a Mac, which needs no torch, `edgemtl record` writes an artifact's maps of a
few frames into one file. On any machine, `edgemtl verify ARTIFACT --recording FILE` compares them with the torch model
and with the target's session there. This works for every target; the file says whether the session was the real
runtime.
"""

import json
import platform
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgemtl.device import processor
from edgemtl.device.camera import open_source
from edgemtl.device.predictor import Predictor, smooth_frames
from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import replacing
from edgemtl.records import artifact
from edgemtl.records.frames import fit
from edgemtl.records.target import load_target
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
    show.line(f"{out}: {len(images)} frames, {told(about)}, {about['device']}")
    show.line(f"next: edgemtl verify {path} --recording {out}")
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


def told(about: dict[str, Any]) -> str:
    """How the recorded maps came about; what was not the target's own runtime says so."""
    return f"{'' if about['how'] == 'executed' else about['how'] + ', '}recorded on {about['machine']}"
