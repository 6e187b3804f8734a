"""A trained model as a function: a frame in, every task's prediction out."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np

from edgemtl import bundled
from edgemtl.device.inputs import named_frames
from edgemtl.device.rates import Paced, Rates, ages
from edgemtl.device.result import Result
from edgemtl.device.sets import Sets
from edgemtl.ground import signing
from edgemtl.ground.errors import needs
from edgemtl.records import artifact
from edgemtl.records.artifact import Manifest
from edgemtl.records.frames import fit, predict
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run, describe_weights
from edgemtl.records.target import Session, load_target
from edgemtl.tasks import Size, check_maps


class Predictor:
    """A model as a function: a frame in, a `Result` out, which is a mapping from tasks to predictions.

    `model` is an artifact's folder, the name of a bundled model, or nothing: the bundled one. A frame is uint8 RGB
    (H, W, 3) of any size; each prediction has the frame's height and width. Threads may share a predictor.

    >>> import numpy as np
    >>> from edgemtl import Predictor
    >>> predictor = Predictor()
    >>> result = predictor(np.zeros((480, 640, 3), np.uint8))
    >>> result["depth"].shape  # metres
    (480, 640)

    Raises UsageError where there is no such model, its target's runtime is missing, or the frame is no image;
    CheckFailed where the runtime gives impossible values, such as NaN, or where the folder is not what the owner of
    `trust`, a public key, signed (see edgemtl.ground.signing).

    With `weights`, such as "float", the folder may be a run's: these of its weights run in torch.

    With `every`, such as {"normals": 4}, normals are computed only for every fourth frame. In between a result has
    their last prediction, and its `ages` say how many frames old that is. OpenVINO and ONNX Runtime can do so. Such a
    predictor is for one stream of frames.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        device: str | None = None,
        *,
        weights: str | None = None,
        every: Mapping[str, int] | None = None,
        trust: Path | str | None = None,
    ) -> None:
        self.folder = bundled.folder(model)
        signing.require_signatures(trust, self.folder)
        self.manifest, self.session = opened(self.folder, device, weights=weights)
        self._infer: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
        if every:
            rates = Rates(self.manifest.tasks, every)
            sets = Sets(self.session, self.manifest.tasks, {tasks: self.session.of(tasks) for tasks in rates.sets})
            self.session, self._infer = sets, Paced(sets.only, rates)

    @overload
    def __call__(self, source: np.ndarray) -> Result: ...
    @overload
    def __call__(self, source: Any) -> Result | list[Result]: ...
    def __call__(self, source: Any) -> Result | list[Result]:
        """The result for a frame or a picture's file; for whatever else `stream` takes, the list of all results."""
        if isinstance(source, np.ndarray):
            return self._result("frame", source)
        results = list(self.stream(source))
        one = isinstance(source, (str, Path)) and Path(source).is_file() and len(results) == 1
        return results[0] if one else results

    def stream(self, source: Any) -> Iterator[Result]:
        """A result for every frame, one at a time and none kept.

        `source` is a frame, a path of a picture, a video or a folder, a pattern such as "rooms/*.jpg", an address, a
        camera's number, or any number of those. A camera has no end: break.
        """
        for name, frame in named_frames(source):
            yield self._result(name, frame)

    def _result(self, name: str, frame: np.ndarray) -> Result:
        maps = self.maps(frame)
        predictions = self.decode(maps, frame.shape[:2])
        return Result(predictions, frame, self.manifest.tasks, name, ages(maps))

    def maps(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """Every task's map as the network returns it, (h, w) or (3, h, w).

        CheckFailed where a value is not finite or no class: such maps are never painted or scored.
        """
        infer = self._infer or self.session
        maps: dict[str, np.ndarray] = infer(fit(frame, self.manifest.size, self.manifest.fit))
        check_maps(maps, self.manifest.tasks)
        return maps

    def decode(self, maps: dict[str, np.ndarray], size: Size, *, frame: Size | None = None) -> dict[str, np.ndarray]:
        """The predictions at `size` from these maps of a frame, which has that size where `frame` states no other."""
        about, own = self.manifest, frame or size
        return {n: predict(about.tasks[n], map, own, about.size, about.fit, at=size) for n, map in maps.items()}


def opened(
    path: Path, device: str | None = None, *, weights: str | None = None, of: Recipe | None = None
) -> tuple[Manifest, Session]:
    """The manifest and a session of what lies at `path`.

    An artifact runs by its target. With `weights`, one of FORMS, a run's weights run in torch, and so does a checkpoint
    of a method's authors, in the network `of` a recipe.
    """
    run = Run(path)
    if of is None and (weights is None or not run.exists):
        manifest = artifact.read(path)
        return manifest, load_target(manifest.target).open(path, manifest, device)
    with needs("train"):
        from edgemtl.quantization import weights as in_torch
    if of is not None:
        return describe_weights(of, path, "fp32"), in_torch.published(of, path, device)
    assert weights is not None
    return run.describe(weights), in_torch.session(run, weights, device)


def smooth_frames(size: Size, count: int) -> list[np.ndarray]:
    """Random smooth uint8 RGB frames (H, W, 3), the same each time: 9 x 12 random colours, enlarged."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 9, 12, 3), np.uint8)
    return [cv2.resize(c, size[::-1], interpolation=cv2.INTER_CUBIC) for c in coarse]
