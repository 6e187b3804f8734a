"""Your own pictures and labels, as --data DIR describes them: EfficientNet-Lite0 and a narrow DeMT at 240x320."""

from pathlib import Path

from edgemtl.data import folder
from edgemtl.recipes._nyud import narrow_demt
from edgemtl.records.recipe import Augment, Compression, Data, Losses, Recipe, Training
from edgemtl.tasks import Task
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.semseg import Semseg

EXAMPLE: dict[str, Task] = {"semseg": Semseg(classes=("background", "thing")), "depth": Depth()}
WEIGHTS = {"semseg": 1.0, "depth": 1.0, "normals": 1.5, "edge": 10.0, "human_parts": 2.0, "sal": 6.0}


def recipe(data: Path | None = None) -> Recipe:
    """The tasks of the data set there, with its class names; without a data set those of an example."""
    tasks = folder.described(data)[0] if data else EXAMPLE
    classes = {name: list(task.class_names) for name, task in tasks.items() if task.class_names}
    return Recipe(
        name="folder_edge",
        summary="your own tasks (here an example's), EfficientNet-Lite0 and a narrow DeMT at 240x320",
        data=Data(name="folder", options={"classes": classes}),
        tasks=tasks,
        size=(240, 320),
        map_stride=2,
        network=narrow_demt(),
        augment=Augment(scale=(1.0, 1.7)),
        training=Training(
            iterations=2500, batch=8, optimizer="adamw", rate=2e-3, backbone_rate=0.2, schedule="one-cycle", warmup=0.1,
            weight_decay=0.02, ema=0.998, label_stride=2, validate_every=500, save_every=200,
            weights={name: WEIGHTS[name] for name in tasks},
            losses=Losses(depth_square=0.5),
        ),
        compression=Compression(calibration=48, iterations=400, rate=1e-4),
    )  # fmt: skip
