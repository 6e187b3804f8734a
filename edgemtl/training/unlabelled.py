"""Frames without labels among those of a data set: what only a teacher has something to say about."""

from pathlib import Path

import numpy as np

from edgemtl.data._files import read_image
from edgemtl.device.camera import images_in
from edgemtl.ground.errors import UsageError
from edgemtl.records.dataset import DataSet


class WithUnlabelled(DataSet):
    """The samples of a data set, then the pictures of a folder."""

    def __init__(self, samples: DataSet, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(
                f"--unlabelled takes a folder of pictures, and {folder} is none; of a film, take"
                " `ffmpeg -i FILM -vf fps=2 FOLDER/%06d.jpg`"
            )
        self.samples, self.images = samples, images_in(folder)

    def __len__(self) -> int:
        return len(self.samples) + len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        labelled = len(self.samples)
        return self.samples[index] if index < labelled else {"image": read_image(self.images[index - labelled])}

    def name(self, index: int) -> str:
        labelled = len(self.samples)
        return self.samples.name(index) if index < labelled else self.images[index - labelled].stem

    def paths(self, index: int) -> dict[str, tuple[Path, ...]]:
        labelled = len(self.samples)
        return self.samples.paths(index) if index < labelled else {"image": (self.images[index - labelled],)}
