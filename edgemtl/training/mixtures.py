"""Pictures of two training frames each, for `train --unlabelled`: what a teacher says of them no label does.

One half are blends (Zhang et al., mixup, ICLR 2018, https://arxiv.org/abs/1710.09412), the other half have a patch of
another frame (Yun et al., CutMix, ICCV 2019, https://arxiv.org/abs/1905.04899).

python -m edgemtl.training.mixtures RECIPE OUT --data DIR
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgemtl.ground import show
from edgemtl.ground.errors import UsageError, exit_status
from edgemtl.ground.files import replacing
from edgemtl.records import recipe as recipes
from edgemtl.records.samples import load_samples

QUALITY = 92  # of the JPEG files


def mixture(frames: Any, index: int, rng: np.random.Generator) -> np.ndarray:
    """A frame with another one, which may be mirrored, blended in or as a patch in it: uint8 RGB, the frame's size."""
    frame, other = frames[index]["image"], frames[int(rng.integers(len(frames)))]["image"]
    height, width = frame.shape[:2]
    if rng.random() < 0.5:
        other = other[:, ::-1]
    other = cv2.resize(np.ascontiguousarray(other), (width, height))
    if index % 2:
        share = rng.uniform(0.3, 0.7)
        return cv2.addWeighted(frame, share, other, 1 - share, 0)
    factor = rng.uniform(0.4, 0.75)
    h, w = int(height * factor), int(width * factor)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    mixed = frame.copy()
    mixed[top : top + h, left : left + w] = other[top : top + h, left : left + w]
    return mixed


def write(name: str, out: Path, data: Path | None = None, seed: int = 0) -> list[Path]:
    """A JPEG file in `out` for each training frame of a recipe's data; UsageError where there is something already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is no empty folder; choose another one")
    frames, rng = load_samples(recipes.load(name, data=data).data, data, "train", {}), np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for index in show.track(range(len(frames)), "mixing frames"):
        mixed = cv2.cvtColor(mixture(frames, index, rng), cv2.COLOR_RGB2BGR)
        file = out / f"{index:06d}.jpg"
        with replacing(file) as temporary:
            temporary.write_bytes(cv2.imencode(".jpg", mixed, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
        files.append(file)
    return files


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edgemtl.training.mixtures", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("recipe", help="whose training frames to mix")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("EDGEMTL_DATA"), help="the data set's folder (EDGEMTL_DATA)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    return exit_status(lambda: f"{args.out}: {len(write(args.recipe, args.out, args.data, args.seed))} pictures")


if __name__ == "__main__":
    sys.exit(main())
