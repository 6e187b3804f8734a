"""NYUD-v2 at some three times nyud_edge's cost: EfficientNet-Lite2 and a wider DeMT decoder at 288x384, four tasks."""

from edgemtl.recipe import Recipe
from edgemtl.recipes import nyud_edge


def recipe() -> Recipe:
    usual = nyud_edge.recipe()
    options = usual.network.options | {"width": 128, "head_width": 64}
    return usual.model_copy(
        update={
            "name": "nyud_edge_l",
            "summary": "EfficientNet-Lite2 and a wider DeMT at 288x384",
            "size": (288, 384),
            "network": usual.network.model_copy(update={"backbone": "tf_efficientnet_lite2", "options": options}),
        }
    )
