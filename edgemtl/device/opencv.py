"""What OpenCV's releases differ in: boards bring the one of their system."""

import cv2


def quiet() -> None:
    """Keeps OpenCV from writing messages of its own; one line of ours says what is wrong."""
    if hasattr(cv2.utils, "logging"):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    else:  # 4.8, of JetPack 6, and before
        cv2.setLogLevel(0)
