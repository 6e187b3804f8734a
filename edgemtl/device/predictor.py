"""A trained model as a function: a frame in, every task's prediction out."""

from pathlib import Path

import cv2
import numpy as np

from edgemtl import artifact, signing
from edgemtl.frames import fit, predict
from edgemtl.target import Session, load_target
from edgemtl.tasks import Size, check


class Predictor:
    """The model in an artifact folder, as a function from a frame to `{task: prediction}`.

    A frame is uint8 RGB (H, W, 3) of any size; each prediction has the frame's height and width. Threads may share one.

    >>> import numpy as np
    >>> from edgemtl import Predictor
    >>> predictor = Predictor("runs/scenes_edge/openvino")
    >>> predictions = predictor(np.zeros((480, 640, 3), np.uint8))
    >>> predictions["depth"].shape  # metres
    (480, 640)

    Raises UsageError where the folder is no artifact, its target's runtime is missing, or the frame is no image;
    CheckFailed where the runtime gives what cannot be right, such as NaN, or where the folder is not what the owner of
    `trust`, a public key, signed (see edgemtl.signing).
    """

    def __init__(self, folder: Path | str, device: str | None = None, *, trust: Path | str | None = None) -> None:
        self.folder = Path(folder)
        if trust is not None:
            signing.check(self.folder, Path(trust))
        self.manifest = artifact.read(self.folder)
        self.session: Session = load_target(self.manifest.target).open(self.folder, self.manifest, device)

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """Every task's prediction at the frame's size."""
        maps = self.maps(frame)
        return self.decode(maps, frame.shape[:2])

    def maps(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """Every task's map as the network returns it, (h, w) or (3, h, w).

        CheckFailed where one cannot be right: what is not finite, or no class, is never painted or scored.
        """
        maps: dict[str, np.ndarray] = self.session(fit(frame, self.manifest.size, self.manifest.fit))
        check(maps, self.manifest.tasks)
        return maps

    def decode(self, maps: dict[str, np.ndarray], size: Size, *, frame: Size | None = None) -> dict[str, np.ndarray]:
        """The predictions at `size` from these maps of a frame, which has that size where `frame` states no other."""
        made = self.manifest
        return {
            name: predict(made.tasks[name], map, frame or size, made.size, made.fit, at=size)
            for name, map in maps.items()
        }


def smooth_frames(size: Size, count: int) -> list[np.ndarray]:
    """Random uint8 RGB frames (H, W, 3) with blobs of a dozen to a frame, the same each time."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 9, 12, 3), np.uint8)
    return [cv2.resize(c, size[::-1], interpolation=cv2.INTER_CUBIC) for c in coarse]
