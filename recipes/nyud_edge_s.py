"""NYUD-v2 at a third of nyud_edge's cost: EfficientNet-Lite0 and half as wide a DeMT decoder at 192x256, four tasks."""

from edgemtl.recipe import Recipe
from edgemtl.recipes import nyud_edge


def recipe() -> Recipe:
    usual = nyud_edge.recipe()
    options = usual.network.options | {"width": 48, "key_width": 16, "offset_groups": 4, "head_width": 32}
    return usual.model_copy(
        update={
            "name": "nyud_edge_s",
            "summary": "EfficientNet-Lite0 and a narrower DeMT at 192x256",
            "size": (192, 256),
            "network": usual.network.model_copy(update={"options": options}),
        }
    )
