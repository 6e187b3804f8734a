"""What the PASCAL-Context recipes share: the five tasks and the papers' trainings."""

from functools import partial

from edgemtl.data import pascal_context
from edgemtl.recipes._papers import demt_recipe, published_network, sca_training
from edgemtl.records.recipe import Augment, Data, Recipe
from edgemtl.tasks import Task
from edgemtl.tasks.sal import Saliency

SIZE = (512, 512)
TASKS: dict[str, Task] = pascal_context.TASKS | {"sal": Saliency(outputs=2)}

paper = partial(
    demt_recipe,
    data="pascal_context",
    tasks=TASKS,
    size=SIZE,
    augment=Augment(scale=(0.5, 2.0), native=True, hide_empty=("human_parts",)),
    weights={"semseg": 1.0, "human_parts": 2.0, "sal": 5.0, "normals": 10.0, "edge": 50.0},
)


def sca(name: str, summary: str, tasks: dict[str, Task], batch: int, epochs: int, weights: dict[str, float]) -> Recipe:
    """The settings that SCA-MTL's code has for some of the tasks, at 512x512.

    What differs: frames keep their aspect and are padded, where the authors stretched them, and a crop lies anywhere,
    not in the middle.
    """
    return Recipe(
        name=name,
        summary=summary,
        data=Data(name="pascal_context"),
        tasks=tasks,
        size=SIZE,
        network=published_network("sca", "hrnet18"),
        augment=Augment(scale=(0.75, 1.25), turn=20.0, colour=0.0, class_ratio=1.0, hide_empty=("human_parts",)),
        training=sca_training(batch, epochs, pascal_context.FRAMES["train"], weights),
    )
