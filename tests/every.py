"""What "every recipe" is to a test that builds each of them."""

import os

from edgemtl.ground import registry

LARGER = ("_swin_s", "_swin_b", "_swin_l")  # the networks of _swin_t with more layers and channels


def recipes() -> list[str]:
    """Their names; those with a larger Swin only where EDGEMTL_EVERY_RECIPE is set."""
    names = registry.names("recipes")
    return names if os.environ.get("EDGEMTL_EVERY_RECIPE") else [name for name in names if not name.endswith(LARGER)]
