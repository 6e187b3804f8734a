"""Raw pictures from standard input, one after another, as `ffmpeg -f rawvideo -` writes them."""

import sys
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np

from edgemtl.device.capture import Frames, Source, Wanted
from edgemtl.ground.errors import CheckFailed, UsageError, unknown
from edgemtl.tasks import Size

RATE = 30.0


@dataclass(frozen=True)
class Layout:
    """How a frame lies in memory: bytes for 2 pixels, rows for 2 of the picture, channels, and OpenCV's way to RGB."""

    bytes_for_two: int
    rows_for_two: int = 2
    channels: int = 1
    to_rgb: int | None = None

    def decode(self, data: bytes, size: Size) -> np.ndarray:
        """The frame, RGB."""
        shape = (size[0] * self.rows_for_two // 2, size[1], self.channels)
        frame = np.frombuffer(data, np.uint8).reshape(shape)
        return frame.copy() if self.to_rgb is None else cv2.cvtColor(frame, self.to_rgb)


LAYOUTS = {
    "rgb24": Layout(6, channels=3),
    "bgr24": Layout(6, channels=3, to_rgb=cv2.COLOR_BGR2RGB),
    "gray": Layout(2, to_rgb=cv2.COLOR_GRAY2RGB),
    "yuyv422": Layout(4, channels=2, to_rgb=cv2.COLOR_YUV2RGB_YUY2),
    "nv12": Layout(3, rows_for_two=3, to_rgb=cv2.COLOR_YUV2RGB_NV12),
    "yuv420p": Layout(3, rows_for_two=3, to_rgb=cv2.COLOR_YUV2RGB_I420),
}  # named as FFmpeg names them


def open_raw(kind: str, wanted: Wanted, stream: BinaryIO | None = None) -> Source:
    """A live source of raw frames on standard input; UsageError where their size is not known or cannot be."""
    if kind not in LAYOUTS:
        raise unknown("layout of raw frames", kind, LAYOUTS)
    if wanted.size is None:
        raise UsageError(f"raw://{kind} says nothing of the frames' size; add --size WIDTHxHEIGHT")
    size, layout = wanted.size, LAYOUTS[kind]
    if layout.channels < 3 and kind != "gray" and (size[0] % 2 or size[1] % 2):
        raise UsageError(f"frames of {kind} have an even width and height, not {size[1]}x{size[0]}")
    source = stream or sys.stdin.buffer
    length = size[0] * size[1] * layout.bytes_for_two // 2

    def frames() -> Frames:
        given = 0
        while len(data := source.read(length)) == length:
            yield layout.decode(data, size)
            given += 1
        if data or not given:
            got = f"{given} frames and {len(data)} bytes" if given else f"{len(data)} bytes"
            raise CheckFailed(f"raw://{kind} ended after {got}, {length} a frame; is --size right?")

    return Source(f"raw://{kind}", frames(), size=size, fps=wanted.rate or RATE, live=True, wanted=wanted)
