"""Data sets: one file each, NumPy and OpenCV only."""
