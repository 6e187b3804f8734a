"""Human parts: which part of a person every pixel shows, scored by mean intersection over union."""

from typing import ClassVar

from edgemtl.tasks._labels import ClassLabels

PARTS = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")


class HumanParts(ClassLabels):
    """Six parts and the background; the label is uint8 (H, W), 255 ignored (all of an image without part labels)."""

    name: ClassVar[str] = "human_parts"
    title: ClassVar[str] = "Human parts"

    @property
    def class_names(self) -> tuple[str, ...]:
        return PARTS


task = HumanParts
