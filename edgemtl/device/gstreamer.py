"""GStreamer's pipelines as sources: a Jetson's CSI camera, and whatever else GStreamer can open."""

import re

import cv2

from edgemtl.ground.errors import UsageError
from edgemtl.tasks import Size

# The newest frame alone, as soon as it is there.
SINK = "videoconvert ! video/x-raw, format=BGR ! appsink drop=true max-buffers=1 sync=false"


def csi_pipeline(sensor: int, size: Size = (720, 1280), rate: float = 30) -> str:
    """The pipeline of a Jetson's CSI camera; it drops old frames by itself."""
    height, width = size
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM), width={width}, height={height}, framerate={rate:.0f}/1 ! nvvidconv ! "
        f"video/x-raw, format=BGRx ! {SINK}"
    )


def pipeline(text: str) -> str:
    """A pipeline as the user typed it; one that ends without a sink of ours gets it."""
    text = text.strip().rstrip("!").strip()
    if not text:
        raise UsageError("gst:// takes a pipeline, such as gst://'v4l2src device=/dev/video0'")
    if not re.search(r"\bappsink\b", text):
        return f"{text} ! {SINK}"
    old = not re.search(r"\bdrop\s*=\s*(true|1)\b", text)
    return re.sub(r"\bappsink\b", "appsink drop=true max-buffers=1", text) if old else text


def require_gstreamer(source: str) -> None:
    """UsageError with the fix where this OpenCV was built without GStreamer."""
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise UsageError(
            f"{source} needs an OpenCV with GStreamer, and pip's opencv-python has none: pip uninstall opencv-python, "
            "then use the system's (JetPack has it; Debian and Ubuntu: apt install python3-opencv) from a venv made "
            "with --system-site-packages"
        )
