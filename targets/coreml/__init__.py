"""Core ML packages (ML programs) for iPhone, iPad and Mac; evaluated here, executed on a Mac."""

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import numpy as np

from edgemtl.ground.errors import unknown
from edgemtl.records.artifact import Manifest
from edgemtl.records.ledger import Found
from edgemtl.records.target import Original, Session, Target

IOS = 17  # the oldest that has quantize and dequantize


@dataclass(frozen=True)
class Options:
    """`ios` is the oldest system that shall run it, 17 or 18 (macOS 14 or 15).

    `arithmetic` is the type of all that is not int8. The Neural Engine takes float16 alone; only float32 keeps exact
    maps exact.
    """

    ios: int = IOS
    arithmetic: str = "float16"


class CoreML(Target):
    """Both ends of a Core ML artifact: input `frame`, an RGB image, one output per task, named after it."""

    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    packages: tuple[str, ...] = ("coremltools",)
    runtime, rank = "coremltools", 4
    options = Options
    exactly = "float32"  # the device on which what is exact must be equal, whatever the package declares
    # How far the evaluator's maps may lie from torch's (fields of bounds.Bounds), with what was measured of the edge
    # recipes on real frames. fp32: 4e-6 of the largest value; 1e-5 has room for another order of additions only.
    # fp16: 7e-3, 99.5 %. half, int8 with float16 between the quantizers: 8e-2, 94 %, because a value near a tie takes
    # the neighbouring step.
    bounds: dict[str, dict[str, float]] = {
        "fp32": {"rms": 1e-5, "largest": 1e-5, "agreement": 0.999},
        "fp16": {"rms": 2e-2, "largest": 0.1, "agreement": 0.985},
        "half": {"rms": 0.15, "largest": 1.0, "agreement": 0.92},
    }

    def convert(self, original: Original, folder: Path) -> list[str]:
        """The names of the files written into `folder`; `metadata` goes into the package's own."""
        from edgemtl.targets.coreml.convert import convert

        options = original.options or Options()
        return convert(original, folder, options.ios, options.arithmetic)

    def open(self, folder: Path, manifest: Manifest, device: str | None = None) -> Session:
        """A session of Core ML itself on a Mac, of the evaluator elsewhere; `device` is told in sessions.py."""
        from edgemtl.targets.coreml.session import open_session

        return open_session(folder, manifest, device)

    def int8(self) -> str:
        return "computed by Core ML on a Mac or phone; elsewhere evaluated in float on the same codes, on every CPU"

    def quantized(self, folder: Path) -> dict[str, list[Found]]:
        """What the package holds of each quantized tensor, once for every operation."""
        from edgemtl.targets.coreml.package import FOLDER
        from edgemtl.targets.coreml.readback import quantized

        return {FOLDER: quantized(folder)}

    def tensors(
        self, folder: Path, manifest: Manifest, frame: np.ndarray, device: str | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What the evaluator computes inside for one frame (H, W, 3), in `device` "declared" types or "float32"."""
        from edgemtl.targets.coreml.session import EVALUATED, tensors

        if (device or "declared") not in EVALUATED:
            raise unknown("arithmetic of the Core ML evaluator", str(device), EVALUATED)
        return tensors(folder, manifest, frame, device or "declared")


target = CoreML()
