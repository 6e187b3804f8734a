"""DeMT with Swin-T on NYUD-v2 at 425x560, the paper's settings."""

from edgemtl.recipe import Augment, Data, Network, Recipe, Training
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.edge import Edge
from edgemtl.tasks.normals import Normals
from edgemtl.tasks.semseg import NYUD_CLASSES, Semseg


def recipe() -> Recipe:
    return Recipe(
        name="nyud_demt_swin_t",
        summary="DeMT, Swin-T, width 256, 425x560",
        data=Data(name="nyud"),
        tasks={"semseg": Semseg(classes=NYUD_CLASSES), "depth": Depth(), "normals": Normals(), "edge": Edge()},
        size=(425, 560),
        network=Network(
            method="demt", backbone="swin_tiny_patch4_window7_224", pretrained=True, options={"width": 256}
        ),
        augment=Augment(scale=(0.5, 2.0)),
        training=Training(
            iterations=40_000, batch=8, optimizer="sgd", rate=1e-3, momentum=0.9, weight_decay=5e-4,
            schedule="poly", power=0.9, validate_every=4000, save_every=1000,
            weights={"semseg": 1.0, "depth": 1.0, "normals": 10.0, "edge": 50.0},
        ),
    )  # fmt: skip
