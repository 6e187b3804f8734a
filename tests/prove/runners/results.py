"""What a runner leaves: a folder with one array for every output, over all frames, and index.json. NumPy alone."""

import json
import time
from pathlib import Path

import numpy as np


class Results:
    """The folder, filled frame by frame.

    Maps are kept as they come, codes as int8. A quantizer that gives values instead of codes is told with its `scale`;
    a value that is no multiple of it within -128..127 makes the run worthless, and is an AssertionError.
    """

    def __init__(self, folder: str, frames: int) -> None:
        self.folder, self.frames = Path(folder), frames
        self.folder.mkdir(parents=True)
        self._arrays: dict[str, np.ndarray] = {}
        self._started = time.monotonic()

    def map(self, task: str, frame: int, value: np.ndarray) -> None:
        self._put(f"map {task}", frame, value)

    def codes(self, place: str, frame: int, value: np.ndarray, scale: float | None = None) -> None:
        codes = value if scale is None else value / np.float32(scale)
        kept = codes.astype(np.int8)
        assert np.array_equal(kept, codes), f"{place}: values that are no codes"
        self._put(f"code {place}", frame, kept)

    def _put(self, name: str, frame: int, value: np.ndarray) -> None:
        if name not in self._arrays:
            file = self.folder / f"{len(self._arrays)}.npy"
            shape = (self.frames, *value.shape)
            self._arrays[name] = np.lib.format.open_memmap(file, "w+", value.dtype, shape)
        self._arrays[name][frame] = value

    def close(self, **about: str) -> None:
        """Writes the index last, so that a folder without one is of a run that broke off."""
        for array in self._arrays.values():
            array.flush()
        seconds = round(time.monotonic() - self._started, 1)
        index = {"outputs": list(self._arrays), "seconds": seconds, **about}
        (self.folder / "index.json").write_text(json.dumps(index))
