"""Semantic segmentation: a class for every pixel, scored by mean intersection over union."""

from typing import Annotated, ClassVar

from pydantic import Field

from edgemtl.tasks._labels import ClassLabels

NYUD_CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror",
    "floor mat", "clothes", "ceiling", "books", "refridgerator", "television", "paper", "towel",
    "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub",
    "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip

PASCAL_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


class Semseg(ClassLabels):
    """Class ids by name; the label is uint8 (H, W), 255 ignored."""

    name: ClassVar[str] = "semseg"
    title: ClassVar[str] = "Semantic segmentation"
    guides_crops: ClassVar[bool] = True

    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=255)]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes


task = Semseg
