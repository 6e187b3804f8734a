"""Whether a window can be opened here."""

import os
import subprocess
import sys


def no_display() -> str | None:
    """Why no window can be opened here, or None."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display (DISPLAY is not set)"
    # Another process tries, since Qt ends the whole process where it finds no display.
    probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('edgemtl'); cv2.destroyAllWindows()"]
    try:
        opened = subprocess.run(probe, capture_output=True, timeout=30).returncode == 0
    except subprocess.TimeoutExpired:
        opened = False
    return None if opened else "OpenCV can open no window here (no access to the display, or a headless build)"
